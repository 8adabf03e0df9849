// The push service of npm's web-push-testing on the port given: it verifies who pushes, decrypts, and tells what it got.
// Its own command line keeps a service per machine in a state folder; a test wants one of its own.
const { PushApiModel } = require('web-push-testing/src/PushApiModel');
const WebPushTestingServer = require('web-push-testing/src/server');

new WebPushTestingServer(new PushApiModel(), Number(process.argv[2])).startServer();
