//! From a delivery and its rendered texts to what a connector takes. Leaves nothing out, and adds nothing but the project's own links.

use crate::{runtime::links::Links, tracking::Tracker};
use bellwether_connectors::channels::{Content, Email, Message, Push, Reference, Whatsapp};
use bellwether_processors::content::Rendered;
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::{ApprovedTemplate, Variant},
    records::Delivery,
};

/// The message of a delivery, to be sent by the provider of that name; its links lead through us where the project tracks.
#[must_use]
pub fn message(
    delivery: &Delivery,
    rendered: Rendered,
    provider: &str,
    tracker: Option<&Tracker>,
    now: Timestamp,
) -> Message {
    let reference = Reference {
        delivery: delivery.id,
        notification: delivery.notification,
        project: delivery.project.clone(),
        member: delivery.member.clone(),
        template: delivery.template.clone(),
        provider: provider.to_owned(),
    };
    let links = tracker.map(|tracker| Links::of(tracker, delivery, &reference));
    let mut variant = rendered.variant;
    if let Some(links) = &links {
        links.put_into(&mut variant);
    }
    let content = content(delivery, variant, now);
    Message {
        delivery: delivery.id,
        attempt: delivery.attempt,
        to: delivery.address.clone(),
        content: match &links {
            Some(links) => links.track(content, delivery.lane),
            None => content,
        },
        lane: delivery.lane,
        ttl: delivery.expires_at.map(|at| at.since(now)),
        reference,
    }
}

fn content(delivery: &Delivery, variant: Variant, now: Timestamp) -> Content {
    let Variant { subject, title, html, text, json, url, icon, image, header, template, buttons, attachments, data } =
        variant;
    // What a channel needs was there when the definitions were applied.
    match delivery.channel {
        Channel::Email => {
            Content::Email(Email { subject: subject.unwrap_or_default(), html, text, attachments, unsubscribe: None })
        }
        Channel::Sms => Content::Text { body: text.unwrap_or_default() },
        Channel::Whatsapp => {
            let may_speak_freely = delivery.window_until.is_some_and(|until| now < until);
            Content::Whatsapp(match (template, text) {
                (_, Some(body)) if may_speak_freely => Whatsapp::Text { body, header, buttons },
                (Some(ApprovedTemplate { name, language, parameters, buttons }), _) => {
                    Whatsapp::Template { name, language, header, parameters, buttons }
                }
                // Without a template the provider will say that it is too late, and the member's dead letter will show it.
                (None, body) => Whatsapp::Text { body: body.unwrap_or_default(), header, buttons },
            })
        }
        Channel::Telegram => {
            let html = html.or_else(|| text.map(|text| escaped(&text))).unwrap_or_default();
            Content::Chat { html, buttons }
        }
        Channel::WebPush | Channel::AppPush => Content::Push(Push {
            title: title.unwrap_or_default(),
            body: text.unwrap_or_default(),
            url,
            icon,
            image,
            data,
            delivered_url: None,
            clicked_url: None,
        }),
        Channel::Webhook => Content::Json { body: json.unwrap_or_default() },
    }
}

/// Text as HTML that shows the same.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
