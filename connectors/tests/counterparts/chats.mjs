// Puts questions of connectors/tests/channels/counterparts.rs to @kapso/whatsapp-cloud-api: {question, input} comes on stdin, the answer
// goes to stdout. The package is looked for in the folder that the first argument names.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { verifySignature, normalizeWebhook } = createRequire(process.argv[2] + "/")("@kapso/whatsapp-cloud-api/server");

const questions = {
  signatures: (cases) =>
    cases.map(({ secret, body, signature }) =>
      verifySignature({ appSecret: secret, rawBody: Buffer.from(body), signatureHeader: signature })),
  webhook: (payload) => {
    const { messages, statuses } = normalizeWebhook(payload);
    return {
      messages: messages.map(({ id, from, text }) => ({ id, from, text: text?.body ?? "" })),
      statuses: statuses.map(({ id, status, bizOpaqueCallbackData }) => ({ id, status, data: bizOpaqueCallbackData ?? null })),
    };
  },
};

const { question, input } = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(questions[question](input)));
