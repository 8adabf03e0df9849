// A shop's site and a headless Chromium that visits it. {api, key, token, port, modules, chromium, profile, screenshots} comes on stdin; exit
// code 0 means that every step was seen.
//
// Three things are not real, because a browser under test has neither a push service nor a person: `pushManager.subscribe` (page and
// worker) answers a subscription whose push service is this script, which decrypts and hands the push to the worker by DevTools'
// `ServiceWorker.deliverPushMessage`; the click on a notification and the change of a subscription are events made here, and so
// `clients.openWindow`, which only a person's click allows, is noted, and the page is opened by the script.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';

const asked = JSON.parse(readFileSync(0, 'utf8'));
const { api, key, token, port, modules, chromium: executablePath, profile, screenshots } = asked;
const require = createRequire(`${modules}/`);
const { chromium } = require('playwright-core');
const ece = require('http_ece');

const PATIENCE = 60_000;
const site = `http://127.0.0.1:${port}`;

async function until(what, look) {
  const begun = Date.now();
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() - begun < PATIENCE, `not within ${PATIENCE} ms: ${what}`);
    await new Promise((go) => setTimeout(go, 50));
  }
}

async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' };
  const answer = await fetch(`${api}${path}`, { method, headers, body: body && JSON.stringify(body) });
  return answer.json();
}

async function event(id, type) {
  const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/cloudevents+json' };
  const body = JSON.stringify({ specversion: '1.0', id, source: '/t', type, subject: 'ana', data: { name: 'Ana' } });
  const answer = await (await fetch(`${api}/v1/events`, { method: 'POST', headers, body })).json();
  return answer.events[0].event_id;
}

async function stands(id, wanted) {
  const told = await call('GET', `/v1/notifications?event=${id}&member=ana`);
  return told.notifications[0]?.status === wanted;
}

const status = (id, wanted) => until(`${id} ${wanted}`, () => stands(id, wanted));

/** The endpoints of the member's subscriptions. */
const endpoints = async () =>
  ((await call('GET', '/v1/members/ana')).addresses.web_push ?? []).map(({ address }) => JSON.parse(address).endpoint);

// --- the push service: keys of two subscriptions, and what was pushed to each

const browsers = [1, 2].map((n) => {
  const ecdh = crypto.createECDH('prime256v1');
  ecdh.generateKeys();
  const auth = crypto.randomBytes(16);
  const json = {
    endpoint: `${site}/push/${n}`,
    expirationTime: null,
    keys: { p256dh: ecdh.getPublicKey().toString('base64url'), auth: auth.toString('base64url') },
  };
  return { ecdh, auth, json, pushes: [] };
});

async function pushed(browser, n) {
  const body = await until(`push ${n}`, () => browser.pushes[n]);
  const text = ece.decrypt(body, { version: 'aes128gcm', privateKey: browser.ecdh, authSecret: browser.auth });
  return text.toString();
}

// --- the shop's site

const PAGE = `<!doctype html><meta charset="utf-8"><title>Shop</title><h1>Shop</h1><button>Tell me</button><p id="is">-</p>
<script src="${api}/bellwether.js"></script>
<script>
  document.querySelector('button').onclick = async () => {
    const options = { api: '${api}', project: 'shop', token: '${token}' };
    const is = await bellwether.subscribe(options).catch((error) => error.message);
    document.querySelector('#is').textContent = is;
  };
</script>`;

const server = http.createServer(async (request, response) => {
  const { pathname } = new URL(request.url, site);
  const browser = browsers.find(({ json }) => json.endpoint === `${site}${pathname}`);
  if (browser) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    browser.pushes.push(Buffer.concat(chunks));
    response.writeHead(201, { Location: `${site}/m/1` }).end();
  } else if (pathname === '/bellwether-sw.js') {
    const script = await (await fetch(`${api}/bellwether-sw.js`)).text();
    response.writeHead(200, { 'Content-Type': 'text/javascript' }).end(script);
  } else if (pathname === '/orders') {
    response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>Orders</title><h1>Orders</h1>');
  } else {
    response.writeHead(200, { 'Content-Type': 'text/html' }).end(PAGE);
  }
});
await new Promise((listening) => server.listen(port, '127.0.0.1', listening));

// --- the browser

const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
  // Chromium without a window calls itself HeadlessChrome, which is a machine to us.
  userAgent: 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36',
  viewport: { width: 390, height: 700 },
  locale: 'es-AR',
});

async function visit() {
  await context.grantPermissions(['notifications'], { origin: site });
  const page = context.pages()[0] ?? (await context.newPage());
  page.on('console', (message) => console.log('page:', message.text()));
  page.on('pageerror', (error) => console.log('page:', error.message));
  await page.addInitScript(substitute, browsers[0].json);
  const devtools = await context.newCDPSession(page);
  const registered = new Promise((found) => {
    devtools.on('ServiceWorker.workerRegistrationUpdated', ({ registrations }) => registrations.length && found(registrations[0]));
  });
  await devtools.send('ServiceWorker.enable');
  await page.goto(site);

  // Subscribe: permission, worker, key, subscription, member.
  const started = context.waitForEvent('serviceworker');
  await page.click('button');
  await until('subscribed', async () => (await page.textContent('#is')) !== '-');
  assert.equal(await page.textContent('#is'), 'true');
  const worker = await started;
  await until('the member has the browser', async () => (await endpoints()).includes(browsers[0].json.endpoint));
  const { registrationId } = await registered;
  const deliver = (data) => devtools.send('ServiceWorker.deliverPushMessage', { origin: site, registrationId, data });
  const shown = () =>
    page.evaluate(async () => {
      const all = await (await navigator.serviceWorker.ready).getNotifications();
      return all.map(({ title, body, tag }) => ({ title, body, tag }));
    });

  // DevTools does not say when a push is dropped on the way to the worker; it is given again after a while, as by a push service.
  const arrives = (what, data, done) =>
    until(what, async () => {
      await deliver(data);
      for (let looks = 0; looks < 40; looks++) {
        if (await done()) return true;
        await new Promise((go) => setTimeout(go, 50));
      }
    });
  const isShown = async () => (await shown()).length > 0;

  // A push is shown, once for two tries of one delivery, and reported.
  const order = await event('1', 'order');
  await status(order, 'sent');
  const push = await pushed(browsers[0], 0);
  const { tag, url, delivered_url: deliveredUrl, clicked_url: clickedUrl, data } = JSON.parse(push);
  assert.ok(url.startsWith(`${api}/t/shop/c/`) && deliveredUrl.startsWith(`${api}/t/shop/d/`) && !clickedUrl, push);
  await deliver(push);
  await arrives('shown', push, isShown);
  assert.deepEqual(await shown(), [{ title: 'Hi Ana', body: 'Your order is on its way', tag }]);
  await status(order, 'delivered');

  // A click opens the link, which tells it and leads on.
  assert.deepEqual(await worker.evaluate(click), [url]);
  assert.deepEqual(await shown(), [], 'it is closed');
  const opened = await context.newPage();
  await opened.goto(url);
  assert.equal(opened.url(), `${site}/orders?id=7`);
  await status(order, 'clicked');

  // One that leads to a place inside the site is reported by the worker.
  const inside = await event('2', 'inside');
  await status(inside, 'sent');
  await arrives('shown', await pushed(browsers[0], 1), isShown);
  await status(inside, 'delivered');
  assert.deepEqual(await worker.evaluate(click), ['/orders?id=8']);
  await status(inside, 'clicked');

  // The browser changes the subscription while nobody is there: no token, the old one shows whose it is.
  await worker.evaluate(change, browsers[1].json);
  await until('renewed', async () => String(await endpoints()) === browsers[1].json.endpoint);
  const after = await event('3', 'order');
  await status(after, 'sent');
  await arrives('delivered', await pushed(browsers[1], 0), () => stands(after, 'delivered'));

  // Who wants no more has a page for it.
  await opened.goto(data.leave);
  assert.equal(await opened.getAttribute('html', 'lang'), 'es');
  assert.equal(await opened.getByRole('button').textContent(), 'Darme de baja');
  const colour = await opened.getByRole('button').evaluate((button) => getComputedStyle(button).backgroundColor);
  assert.equal(colour, 'rgb(29, 78, 216)', "the page's policy allows its own style");
  if (screenshots) {
    await opened.screenshot({ path: `${screenshots}/unsubscribe.png` });
    await page.screenshot({ path: `${screenshots}/subscribed.png` });
  }
}

/** In page and worker: the browser's own push service is this script. */
function substitute(json) {
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
  let subscription = null;
  PushManager.prototype.getSubscription = async () => subscription;
  PushManager.prototype.subscribe = async ({ userVisibleOnly, applicationServerKey: given }) => {
    if (!userVisibleOnly) throw new Error('Chromium asks for userVisibleOnly');
    const applicationServerKey = (typeof given === 'string' ? bytes(given) : new Uint8Array(given)).buffer;
    subscription = { ...json, options: { applicationServerKey }, toJSON: () => json };
    return subscription;
  };
}

/** In the worker: the first notification is clicked; returns what was to be opened. */
async function click() {
  const opened = [];
  self.clients.openWindow = async (url) => void opened.push(url);
  const [notification] = await self.registration.getNotifications();
  const event = new NotificationEvent('notificationclick', { notification });
  let end;
  // Only an event of the browser's own may be waited for.
  Object.defineProperty(event, 'waitUntil', { value: (work) => (end = work) });
  self.dispatchEvent(event);
  await end;
  return opened;
}

/** In the worker: the browser's subscription has ended, and it gets a new one. */
async function change(json) {
  PushManager.prototype.getSubscription = async () => null;
  PushManager.prototype.subscribe = async ({ userVisibleOnly, applicationServerKey }) => {
    if (!userVisibleOnly || !applicationServerKey) throw new Error('no key');
    return { ...json, toJSON: () => json };
  };
  const event = new ExtendableEvent('pushsubscriptionchange');
  let end;
  Object.defineProperty(event, 'waitUntil', { value: (work) => (end = work) });
  self.dispatchEvent(event);
  await end;
}

try {
  await visit();
} finally {
  await context.close();
  server.close();
  server.closeAllConnections();
}
