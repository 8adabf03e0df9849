"""Puts questions of connectors/tests/channels/counterparts.rs to pywa and python-telegram-bot.

One JSON object {question, input} comes on stdin, the answer goes to stdout. Nothing here knows what answer is expected.
"""

import asyncio
import json
import sys


def meta_signatures(cases):
    from pywa.utils import webhook_updates_validator

    return [webhook_updates_validator(c["secret"], c["body"].encode(), c["signature"]) for c in cases]


def meta_codes(_):
    """Every code of the catalogue that a message can meet, with the group that pywa puts it in."""
    from pywa import errors

    groups = ("AuthorizationError", "ThrottlingError", "IntegrityError", "SendMessageError")
    return [
        {"code": code, "group": group}
        for group in groups
        for error in getattr(errors, group).__subclasses__()
        for code in error.__error_codes__ or ()
    ]


def meta_requests(said):
    """What pywa puts on the wire for the same messages."""
    import httpx
    from pywa import WhatsApp
    from pywa.types import Button, URLButton, templates

    bodies = []

    def answer(request):
        bodies.append(json.loads(request.content))
        sent = {"messaging_product": "whatsapp", "contacts": [{"input": "1", "wa_id": "1"}], "messages": [{"id": "wamid.1"}]}
        return httpx.Response(200, json=sent)

    session = httpx.Client(transport=httpx.MockTransport(answer))
    client = WhatsApp(phone_id="106", token="t", session=session)
    to, body, tracker = said["to"], said["body"], said["tracker"]
    replies = [Button(title, str(n)) for n, title in enumerate(said["replies"])]
    client.send_message(to, body, tracker=tracker)
    client.send_message(to, body, buttons=replies, tracker=tracker)
    client.send_message(to, body, buttons=URLButton(said["link"]["text"], said["link"]["url"]), tracker=tracker)
    client.send_image(to, said["image"], caption=body, tracker=tracker)
    client.send_video(to, said["image"], caption=body, tracker=tracker)
    client.send_document(to, said["image"], caption=body, filename=None, tracker=tracker)
    client.send_image(to, said["image"], caption=body, buttons=replies, tracker=tracker)
    client.send_image(to, said["image"], caption=body, buttons=URLButton(said["link"]["text"], said["link"]["url"]), tracker=tracker)
    for header in (templates.HeaderImage.params(image=said["image"]), templates.HeaderVideo.params(video=said["image"])):
        button = templates.URLButton.params(url_variable=said["variable"], index=1)
        params = [header, templates.BodyText.params(*said["parameters"]), button]
        client.send_template(to, "hello", templates.TemplateLanguage("es_AR"), params, tracker=tracker)
    return bodies


def telegram_updates(updates):
    from telegram import Update

    def flat(data):
        update = Update.de_json(data)
        message, member = update.message, update.my_chat_member
        told = message or member
        return {
            "id": update.update_id,
            "chat": str(told.chat.id) if told else None,
            "seconds": int(told.date.timestamp()) if told else None,
            "text": message.text if message else None,
            "moved_to": str(message.migrate_to_chat_id) if message and message.migrate_to_chat_id else None,
            "status": str(member.new_chat_member.status) if member else None,
        }

    return [flat(data) for data in updates]


def telegram_request(said):
    """What python-telegram-bot puts on the wire for the same message."""
    from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup
    from telegram.request import BaseRequest

    calls = []

    class Recorder(BaseRequest):
        read_timeout = 1

        async def initialize(self):
            pass

        async def shutdown(self):
            pass

        async def do_request(self, url, method, request_data=None, **_):
            calls.append({"url": url, "parameters": request_data.parameters})
            sent = {"message_id": 42, "date": 1, "chat": {"id": 7, "type": "private"}}
            return 200, json.dumps({"ok": True, "result": sent}).encode()

    async def send():
        bot = Bot("1:t", request=Recorder(), get_updates_request=Recorder())
        rows = [[InlineKeyboardButton(text=b["text"], url=b["url"])] for b in said["buttons"]]
        await bot.send_message(said["chat"], said["html"], parse_mode="HTML", reply_markup=InlineKeyboardMarkup(rows))

    asyncio.run(send())
    return calls


def telegram_links(payloads):
    from telegram.helpers import create_deep_linked_url

    return [create_deep_linked_url("our_bot", payload) for payload in payloads]


asked = json.load(sys.stdin)
questions = {f.__name__: f for f in (meta_signatures, meta_codes, meta_requests, telegram_updates, telegram_request, telegram_links)}
json.dump(questions[asked["question"]](asked["input"]), sys.stdout)
