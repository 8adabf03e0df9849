// The service worker of web push: shows what Bellwether sends, reports that it was shown, opens what was clicked. Serve it from your origin,
// or take it into a worker that you have: importScripts('https://bellwether.example/bellwether-sw.js').
// Its payload is written by `connectors/src/channels/web_push.rs`; its options by `bellwether.js`.

self.addEventListener('push', (event) => event.waitUntil(show(read(event.data))));

self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  event.waitUntil(follow(event.notification.data.url));
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

async function show({ title, body, tag, icon, image, url, delivered_url: deliveredUrl, data }) {
  await self.registration.showNotification(title || self.location.hostname, {
    body,
    icon,
    image,
    // A second try of the same delivery takes the place of the first, silently.
    tag,
    data: { ...data, url },
  });
  if (deliveredUrl) {
    // Whether it is counted is not the member's worry.
    await fetch(deliveredUrl, { method: 'POST', mode: 'no-cors', keepalive: true }).catch(() => {});
  }
}

async function follow(url) {
  if (!url || !/^https?:/.test(new URL(url, self.location.origin).href)) return;
  await self.clients.openWindow(url);
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
  // Where the token has expired by now, the page's next `bellwether.renew` does it.
  await fetch(`${options.api}/v1/web-push/subscriptions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${options.token}` },
    body: JSON.stringify({ project: options.project, subscription }),
  });
}

async function remembered() {
  const response = await (await caches.open('bellwether')).match('/bellwether-options');
  return response && response.json();
}

async function publicKey({ api, project }) {
  const response = await fetch(`${api}/v1/web-push/key?project=${encodeURIComponent(project)}`);
  // Browsers take the key's base64url text as it is.
  return (await response.json()).key;
}
