// The service worker of web push: shows what Bellwether sends, reports that it was shown, opens what was clicked. Serve it from your origin,
// or take it into a worker that you have: importScripts('https://bellwether.example/bellwether-sw.js').
// Its payload is written by `connectors/src/channels/web_push.rs`; its options by `bellwether.js`.

self.addEventListener('push', (event) => event.waitUntil(show(read(event.data))));

self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  event.waitUntil(follow(event.notification.data));
});

// The browser or its push service replaced the subscription, and perhaps nobody will visit the page for months.
self.addEventListener('pushsubscriptionchange', (event) => event.waitUntil(renew(event)));

function read(data) {
  try {
    return data.json();
  } catch {
    // A browser that is not shown anything for a push takes the permission away.
    return { title: data ? data.text() : '' };
  }
}

async function show({ title, body, tag, icon, image, url, delivered_url: deliveredUrl, clicked_url: clickedUrl, data }) {
  await self.registration.showNotification(title || self.location.hostname, {
    body,
    icon,
    image,
    // A second try of the same delivery takes the place of the first, silently.
    tag,
    data: { ...data, url, clickedUrl },
  });
  await tell(deliveredUrl);
}

async function follow({ url, clickedUrl }) {
  // A window opens only right after the click, so the report must not come first.
  const opened = isWeb(url) && self.clients.openWindow(url);
  await Promise.all([opened, tell(clickedUrl)]);
}

function isWeb(url) {
  return Boolean(url) && /^https?:/.test(new URL(url, self.location.origin).href);
}

async function tell(url) {
  // Whether it is counted is not the member's worry.
  if (url) await fetch(url, { method: 'POST', mode: 'no-cors', keepalive: true }).catch(() => {});
}

async function renew(event) {
  const options = await remembered();
  if (!options) return;
  const key = event.oldSubscription?.options.applicationServerKey;
  const subscription =
    event.newSubscription ??
    (await self.registration.pushManager.getSubscription()) ??
    (await self.registration.pushManager.subscribe({
      userVisibleOnly: true,
      applicationServerKey: key ?? (await publicKey(options)),
    }));
  // The member's token has expired long ago; that we know the subscription which this one replaces shows whose it is.
  const { api, project, subscription: replaces } = options;
  const response = await fetch(`${api}/v1/web-push/subscriptions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ project, subscription, replaces }),
  });
  // Where it was not taken, the page's next `bellwether.renew` repairs it.
  if (response.ok) await remember({ api, project, subscription });
}

async function remembered() {
  const response = await (await caches.open('bellwether')).match('/bellwether-options');
  return response && response.json();
}

async function remember(options) {
  await (await caches.open('bellwether')).put('/bellwether-options', new Response(JSON.stringify(options)));
}

async function publicKey({ api, project }) {
  const response = await fetch(`${api}/v1/web-push/key?project=${encodeURIComponent(project)}`);
  // Browsers take the key's base64url text as it is.
  return (await response.json()).key;
}
