// The pages about a member's own matters in a headless Chromium, which runs no script of any page, as large as a small phone. {api, key, confirm,
// preferences, modules, chromium, screenshots} comes on stdin; exit code 0 means that every step was seen.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const asked = JSON.parse(readFileSync(0, 'utf8'));
const { api, key, confirm, preferences, modules, chromium: executablePath, screenshots } = asked;
const { chromium } = createRequire(`${modules}/`)('playwright-core');

const PATIENCE = 60_000;

async function member() {
  const answer = await fetch(`${api}/v1/members/ana`, { headers: { Authorization: `Bearer ${key}` } });
  return answer.json();
}

/** Waits until the member's profile is as wanted. */
async function until(what, holds) {
  const begun = Date.now();
  for (;;) {
    const found = await member();
    if (holds(found)) return;
    assert.ok(Date.now() - begun < PATIENCE, `not within ${PATIENCE} ms: ${what}: ${JSON.stringify(found)}`);
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

async function steps() {
  await visit('confirm', { locale: 'en-GB' }, async (page) => {
    await page.goto(confirm);
    await fits(page);
    const [address] = (await member()).addresses.email;
    assert.equal(address.state, 'unconfirmed', 'to look confirms nothing');
    await page.getByRole('button', { name: 'Yes, write to me at a***@example.org' }).click();
    assert.equal(await heading(page), 'Thank you');
    await until('confirmed', ({ addresses }) => addresses.email[0].state === 'active');
  });

  await visit('preferences-en', { locale: 'en-GB' }, async (page) => {
    await page.goto(preferences);
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
    await until('saved', ({ opt_ins, quiet_hours }) =>
      opt_ins.email?.news === false && opt_ins.sms?.marketing === true && quiet_hours?.from === '21:30' && quiet_hours.to === '08:00');
  });

  await visit('preferences-es', { locale: 'es-AR', colorScheme: 'dark' }, async (page) => {
    await page.goto(preferences);
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
    await until('saved', ({ opt_ins, quiet_hours }) =>
      opt_ins.email?.news === true && quiet_hours?.from === quiet_hours?.to);
    assert.ok(!(await silence.isChecked()), 'the page is as asked');

    await page.getByRole('button', { name: 'Darme de baja de todo' }).click();
    assert.match(await status(page), /Te has dado de baja/);
    await until('out', ({ opt_ins }) => opt_ins.email?.['*'] === false && opt_ins.sms?.['*'] === false);
    await page.goto(preferences);
    assert.equal(await page.locator('input:enabled:checked').count(), 0, 'nothing that can be refused is left');
    assert.equal(await page.locator('input:disabled:checked').count(), 2, 'what cannot is');
  });
}

try {
  await steps();
} finally {
  await browser.close();
}
