// Web push for a page of yours. Serve `bellwether-sw.js` from your own origin (a service worker rules only where it comes from), then:
//
//   <script src="https://bellwether.example/bellwether.js"></script>
//   button.onclick = () => bellwether.subscribe({api: 'https://bellwether.example', project: 'shop', token: MEMBER_TOKEN});
//
// MEMBER_TOKEN is what your server asked for, for the member who is logged in (POST /v1/members/{id}/links). Browsers ask for permission only after a click; call
// `bellwether.renew` with the same options on every page view: it asks for nothing and repairs what the browser or you have changed.

const bellwether = (() => {
  const isSupported = () => 'serviceWorker' in navigator && 'PushManager' in window && 'Notification' in window;

  /** Asks for permission, subscribes, and tells Bellwether. Resolves to whether the member is subscribed. */
  async function subscribe(options) {
    if (!isSupported() || (await Notification.requestPermission()) !== 'granted') return false;
    await synchronize(options);
    return true;
  }

  /** Keeps a given permission alive: subscribes anew where the browser or a new key ended it, and tells Bellwether. */
  async function renew(options) {
    if (!isSupported() || Notification.permission !== 'granted') return false;
    await synchronize(options);
    return true;
  }

  /** Ends the subscription in the browser. Bellwether learns it from the push service with the next message. */
  async function unsubscribe() {
    const registration = isSupported() && (await navigator.serviceWorker.getRegistration());
    const subscription = registration && (await registration.pushManager.getSubscription());
    return subscription ? subscription.unsubscribe() : false;
  }

  async function synchronize({ api, project, token, worker = '/bellwether-sw.js' }) {
    await navigator.serviceWorker.register(worker);
    const registration = await navigator.serviceWorker.ready;
    const key = await publicKey(api, project);
    let subscription = await registration.pushManager.getSubscription();
    // A subscription is bound to the key that it was made with.
    if (subscription && !isSame(subscription.options.applicationServerKey, key)) {
      await subscription.unsubscribe();
      subscription = null;
    }
    subscription ??= await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    await post(api, project, token, subscription);
    // The worker has no page to ask when the browser changes the subscription on its own.
    await remember({ api, project, subscription });
  }

  async function publicKey(api, project) {
    const response = await fetch(`${api}/v1/web-push/key?project=${encodeURIComponent(project)}`);
    if (!response.ok) throw new Error(`bellwether: no key (HTTP ${response.status})`);
    return bytes((await response.json()).key);
  }

  async function post(api, project, token, subscription) {
    const response = await fetch(`${api}/v1/web-push/subscriptions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
      body: JSON.stringify({ project, subscription }),
    });
    if (!response.ok) throw new Error(`bellwether: not subscribed (HTTP ${response.status})`);
  }

  async function remember(options) {
    const cache = await caches.open('bellwether');
    await cache.put('/bellwether-options', new Response(JSON.stringify(options)));
  }

  function bytes(base64url) {
    const base64 = base64url.replace(/-/g, '+').replace(/_/g, '/');
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  }

  function isSame(buffer, key) {
    const own = new Uint8Array(buffer ?? []);
    return own.length === key.length && own.every((byte, at) => byte === key[at]);
  }

  return { isSupported, subscribe, renew, unsubscribe };
})();
