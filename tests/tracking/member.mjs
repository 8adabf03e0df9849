// The pages about a member's own matters in a headless Chromium, which runs no script of any page, as large as a small phone. {api, key, links,
// modules, chromium, screenshots} comes on stdin, with the links {confirm, preferences, unsubscribe} of each member; exit code 0 means that every
// step was seen.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const asked = JSON.parse(readFileSync(0, 'utf8'));
const { api, key, links, modules, chromium: executablePath, screenshots } = asked;
const { chromium } = createRequire(`${modules}/`)('playwright-core');

const PATIENCE = 60_000;

/** A browser's language, and what the pages say in it of what is done in both. */
const ENGLISH = {
  name: 'en',
  locale: 'en-GB',
  yes: 'Yes, write to me at',
  thanks: 'Thank you',
  unsubscribe: { title: 'Unsubscribe', button: 'Unsubscribe', done: 'You are unsubscribed' },
  leave: { button: 'Unsubscribe from all', done: /You are unsubscribed from everything/ },
};
const SPANISH = {
  name: 'es',
  locale: 'es-AR',
  yes: 'Sí, quiero recibir mensajes en',
  thanks: 'Gracias',
  unsubscribe: { title: 'Darse de baja', button: 'Darme de baja', done: 'Te has dado de baja' },
  leave: { button: 'Darme de baja de todo', done: /Te has dado de baja de todo/ },
};

async function member(id) {
  const answer = await fetch(`${api}/v1/members/${id}`, { headers: { Authorization: `Bearer ${key}` } });
  return answer.json();
}

/** Waits until the member's profile is as wanted. */
async function until(id, what, holds) {
  const begun = Date.now();
  for (;;) {
    const found = await member(id);
    if (holds(found)) return;
    assert.ok(Date.now() - begun < PATIENCE, `${id}: not within ${PATIENCE} ms: ${what}: ${JSON.stringify(found)}`);
    await new Promise((go) => setTimeout(go, 50));
  }
}

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'] });

/** Visits with a browser of this language; where pictures are wanted, its last page is one, also after a step that failed. */
async function visit(name, options, steps) {
  const context = await browser.newContext({ viewport: { width: 360, height: 640 }, javaScriptEnabled: false, ...options });
  const page = await context.newPage();
  try {
    await steps(page);
  } finally {
    if (screenshots) await page.screenshot({ path: `${screenshots}/${name}.png`, fullPage: true });
    await context.close();
  }
}

const box = (page, title, channel) =>
  page.getByRole('group', { name: channel, exact: true }).getByRole('checkbox', { name: title, exact: true });
const heading = (page) => page.getByRole('heading', { level: 1 }).textContent();
const status = (page) => page.getByRole('status').textContent();

const time = (page, label) => page.getByLabel(label, { exact: true });

/** What is pressed is high enough for a finger, and nothing stands beyond the edge. */
async function fits(page) {
  for (const control of await page.locator('label, button, input[type=time]').all()) {
    const { height } = await control.boundingBox();
    assert.ok(height >= 44, `${await control.textContent()}: ${height} px`);
  }
  const { width } = await page.locator('html').evaluate((html) => ({ width: html.scrollWidth }));
  assert.ok(width <= page.viewportSize().width, `${width} px wide`);
}

/** The member says that the address is theirs. */
async function confirms(id, { name, locale, yes, thanks }) {
  await visit(`confirm-${name}`, { locale }, async (page) => {
    await page.goto(links[id].confirm);
    assert.equal(await page.getAttribute('html', 'lang'), name);
    await fits(page);
    const [address] = (await member(id)).addresses.email;
    assert.equal(address.state, 'unconfirmed', 'to look confirms nothing');
    await page.getByRole('button', { name: `${yes} ${id[0]}***@example.org`, exact: true }).click();
    assert.equal(await heading(page), thanks);
    await until(id, 'confirmed', ({ addresses }) => addresses.email[0].state === 'active');
  });
}

/** The member wants no more e-mail. */
async function unsubscribes(id, { name, locale, unsubscribe: { title, button, done } }) {
  await visit(`unsubscribe-${name}`, { locale }, async (page) => {
    const { opt_ins: before } = await member(id);
    assert.notEqual(before.email['*'], false, 'not out yet');
    await page.goto(links[id].unsubscribe);
    assert.equal(await page.getAttribute('html', 'lang'), name);
    assert.equal(await heading(page), title);
    await fits(page);
    assert.deepEqual((await member(id)).opt_ins, before, 'to look changes nothing');
    await page.getByRole('button', { name: button, exact: true }).click();
    assert.equal(await heading(page), done);
    await until(id, 'unsubscribed', ({ opt_ins }) => opt_ins.email['*'] === false);
  });
}

/** The member, who gets no e-mail any more, wants nothing more at all. */
async function leaves(id, { name, locale, leave: { button, done } }) {
  const { preferences } = links[id];
  await visit(`leave-${name}`, { locale }, async (page) => {
    await page.goto(preferences);
    assert.notEqual(await page.locator('input:enabled:checked').count(), 0, 'by SMS something is left');
    await page.getByRole('button', { name: button, exact: true }).click();
    assert.match(await status(page), done);
    await until(id, 'out', ({ opt_ins }) =>
      [opt_ins.email, opt_ins.sms].every((said) => said?.['*'] === false && said.news === false));
    await page.goto(preferences);
    assert.equal(await page.locator('input:enabled:checked').count(), 0, 'nothing that can be refused is left');
    assert.equal(await page.locator('input:disabled:checked').count(), 2, 'what cannot is');
  });
}

async function steps() {
  await confirms('ana', ENGLISH);
  await confirms('eva', SPANISH);

  await visit('preferences-en', { locale: ENGLISH.locale }, async (page) => {
    await page.goto(links.ana.preferences);
    assert.equal(await page.getAttribute('html', 'lang'), 'en');
    assert.equal(await heading(page), 'What you get from shop');
    await fits(page);
    assert.ok(await box(page, 'Newsletter', 'E-mail').isChecked(), 'as the member said');
    assert.ok(await box(page, 'Orders', 'SMS').isChecked(), 'as is assumed');
    assert.ok(await box(page, /^Security/, 'E-mail').isDisabled(), 'it cannot be refused');
    await box(page, 'Newsletter', 'E-mail').uncheck();
    await box(page, 'News and offers', 'SMS').check();
    assert.ok(!(await box(page, /^Do not disturb me/, 'Quiet hours').isChecked()), 'the project has none');
    await box(page, /^Do not disturb me/, 'Quiet hours').check();
    await time(page, 'From').fill('21:30');
    await page.getByRole('button', { name: 'Save' }).click();
    assert.match(await status(page), /^Saved/);
    assert.ok(!(await box(page, 'Newsletter', 'E-mail').isChecked()), 'the page is as asked');
    assert.equal(await time(page, 'From').inputValue(), '21:30');
    await until('ana', 'saved', ({ opt_ins, quiet_hours }) =>
      opt_ins.email?.news === false && opt_ins.sms?.marketing === true && quiet_hours?.from === '21:30' && quiet_hours.to === '08:00');
  });

  await visit('preferences-es', { locale: SPANISH.locale, colorScheme: 'dark' }, async (page) => {
    await page.goto(links.ana.preferences);
    assert.equal(await page.getAttribute('html', 'lang'), 'es');
    const colour = await page.locator('body').evaluate((body) => getComputedStyle(body).backgroundColor);
    assert.equal(colour, 'rgb(22, 24, 29)', 'by night');
    await fits(page);
    const news = box(page, 'Boletín', 'Correo electrónico');
    assert.ok(!(await news.isChecked()), 'as it was saved');
    assert.equal(await time(page, 'Desde').inputValue(), '21:30');
    const silence = box(page, /^No molestarme/, 'Horas de silencio');
    await silence.uncheck();

    // By keyboard alone: the focus is seen, the space bar ticks.
    await news.focus();
    await page.keyboard.press('Tab');
    await page.keyboard.press('Shift+Tab');
    assert.equal(await news.evaluate((input) => getComputedStyle(input).outlineWidth), '3px');
    await page.keyboard.press('Space');
    await page.getByRole('button', { name: 'Guardar' }).press('Enter');
    assert.match(await status(page), /^Guardado/);
    await until('ana', 'saved', ({ opt_ins, quiet_hours }) =>
      opt_ins.email?.news === true && quiet_hours?.from === quiet_hours?.to);
    assert.ok(!(await silence.isChecked()), 'the page is as asked');
  });

  // Last, because whoever is out finds no box ticked but of what cannot be refused.
  await unsubscribes('ana', ENGLISH);
  await unsubscribes('eva', SPANISH);
  await leaves('ana', SPANISH);
  await leaves('eva', ENGLISH);
}

try {
  await steps();
} finally {
  await browser.close();
}
