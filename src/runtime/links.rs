//! Puts tracked links into a message: which places of each channel lead through us. Pure; what a link carries and how it is sealed is the
//! connectors' `tracking`.

use crate::tracking::Tracker;
use bellwether_connectors::{
    channels::{Content, Email, Push, Reference, Whatsapp},
    tracking::{
        Link, Purpose,
        html::{rewrite, rewrite_text, with_pixel},
    },
};
use bellwether_processors::content::OwnLink;
use bellwether_schemas::{
    Lane,
    definitions::{Button, Tracking, Variant},
    records::Delivery,
};

/// What a link that texts name is for.
const fn purpose(link: OwnLink) -> Purpose {
    match link {
        OwnLink::Unsubscribe => Purpose::Unsubscribe,
        OwnLink::Preferences => Purpose::Preferences,
        OwnLink::Confirm => Purpose::Confirm,
    }
}

/// The links of one try of a delivery.
#[derive(Debug)]
pub struct Links<'t> {
    tracker: &'t Tracker,
    /// What all of them carry.
    link: Link,
}

impl<'t> Links<'t> {
    /// For a delivery that goes by the provider of the reference.
    #[must_use]
    pub fn of(tracker: &'t Tracker, delivery: &Delivery, reference: &Reference) -> Self {
        let (reference, channel, attempt) = (reference.clone(), delivery.channel, delivery.attempt);
        Self { tracker, link: Link { reference, channel, attempt, target: None } }
    }

    /// Puts the delivery's own links where texts name them, such as `{{ unsubscribe_url }}`.
    pub fn put_into(&self, variant: &mut Variant) {
        for (_, text) in variant.texts_mut() {
            for link in OwnLink::ALL {
                if text.contains(link.place())
                    && let Some(url) = self.url(purpose(link))
                {
                    *text = text.replace(link.place(), &url);
                }
            }
        }
    }

    /// The same content with what leads through us.
    #[must_use]
    pub fn track(&self, content: Content, lane: Lane) -> Content {
        let Tracking { opens, clicks, channels, .. } = &self.tracker.settings;
        let (opens, clicks) = if channels.contains(&self.link.channel) { (*opens, *clicks) } else { (false, false) };
        let click = |target: &str| if clicks { self.click(target) } else { None };
        let pressed = |button: Button| Button { url: button.url.map(|url| click(&url).unwrap_or(url)), ..button };
        match content {
            Content::Email(email) => {
                let pixel = if opens { self.url(Purpose::Open) } else { None };
                let html = email.html.map(|html| rewrite(&html, click)).map(|html| match &pixel {
                    Some(pixel) => with_pixel(&html, pixel),
                    None => html,
                });
                let is_offered = self.tracker.offers_one_click(lane, &self.link.reference.template);
                let unsubscribe = if is_offered { self.url(Purpose::Unsubscribe) } else { None };
                Content::Email(Email { html, unsubscribe, ..email })
            }
            Content::Text { body } => Content::Text { body: rewrite_text(&body, click) },
            Content::Whatsapp(Whatsapp::Text { body, header, buttons }) => {
                let buttons = buttons.into_iter().map(pressed).collect();
                Content::Whatsapp(Whatsapp::Text { body, header, buttons })
            }
            Content::Chat { html, buttons } => {
                Content::Chat { html: rewrite(&html, click), buttons: buttons.into_iter().map(pressed).collect() }
            }
            Content::Push(push) if channels.contains(&self.link.channel) => {
                let tracked = push.url.as_deref().and_then(click);
                // A push that leads nowhere, or into the app, tells beside that it was clicked.
                let is_told_beside = clicks && tracked.is_none();
                Content::Push(Push {
                    delivered_url: self.url(Purpose::Delivered),
                    clicked_url: if is_told_beside { self.url(Purpose::Click) } else { None },
                    url: tracked.or(push.url),
                    ..push
                })
            }
            // What a template of Meta's puts into a button is the end of a URL that Meta has approved.
            Content::Whatsapp(Whatsapp::Template { .. }) | Content::Push(_) | Content::Json { .. } => content,
        }
    }

    fn click(&self, target: &str) -> Option<String> {
        let link = Link { target: Some(target.to_owned()), ..self.link.clone() };
        if target.is_empty() || self.tracker.is_ours(target) { None } else { self.tracker.url(Purpose::Click, &link) }
    }

    fn url(&self, purpose: Purpose) -> Option<String> {
        self.tracker.url(purpose, &self.link)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::{Channel, DeliveryId, NotificationId, Timestamp, definitions::Secret};
    use serde_json::{Value, json};

    fn tracker(change: Value) -> Tracker {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "a secret of enough length\n").unwrap();
        let mut settings = json!({"base_url": "https://l.example/", "key": Secret::File(key)});
        settings.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Tracker::new("shop", &serde_json::from_value(settings).unwrap(), ["offer"]).unwrap()
    }

    fn delivery(channel: Channel) -> Delivery {
        Delivery {
            id: DeliveryId::default(),
            notification: NotificationId::default(),
            project: "shop".into(),
            member: "anna".into(),
            event_type: "order".into(),
            template: "order".into(),
            channel,
            address: "a".into(),
            locale: None,
            lane: Lane::Bulk,
            attempt: 2,
            accepted_at: Timestamp(0),
            expires_at: None,
            context: "{}".into(),
            window_until: None,
        }
    }

    fn reference(delivery: &Delivery) -> Reference {
        Reference {
            delivery: delivery.id,
            notification: delivery.notification,
            project: delivery.project.clone(),
            member: delivery.member.clone(),
            template: delivery.template.clone(),
            provider: "p".into(),
        }
    }

    /// Each link in a text replaced by what it is for and carries.
    fn read(text: &str, tracker: &Tracker) -> String {
        let mut parts = text.split("https://l.example/t/shop/");
        let mut out = parts.next().unwrap().to_owned();
        for part in parts {
            if let Some(rest) = part.strip_prefix("u/\\\"") {
                out += &format!("[as it was]{rest}");
                continue;
            }
            let end = part.find(|c: char| !c.is_ascii_alphanumeric() && !"/_-".contains(c)).unwrap_or(part.len());
            let (path, token) = part[..end].split_once('/').unwrap();
            let purpose = Purpose::ALL.into_iter().find(|purpose| purpose.path() == path).unwrap();
            let Link { reference, channel, attempt, target } = tracker.keys().open(purpose, token).unwrap();
            let target = target.unwrap_or_default();
            out += &format!("[{} {} {channel} {attempt} {target}]{}", purpose.name(), reference.member, &part[end..]);
        }
        out
    }

    fn contents() -> Vec<(Channel, Content)> {
        let button = |url: Option<&str>| Button { text: "b".into(), url: url.map(Into::into) };
        let buttons = vec![button(Some("https://s.example/b")), button(Some("tg://x")), button(None)];
        let html = r#"<body><a href="https://s.example/?a=1&amp;b">x</a> <a href="https://l.example/t/shop/u/">ours</a></body>"#;
        let text = "see https://s.example/t.";
        let push =
            |url: Option<&str>| Content::Push(Push { title: "t".into(), url: url.map(Into::into), ..Push::default() });
        let email = Email { html: Some(html.into()), text: Some(text.into()), ..Email::default() };
        let header = None;
        let template = Whatsapp::Template {
            name: "n".into(),
            language: "en".into(),
            header: None,
            parameters: vec![],
            buttons: vec![Some("https://s.example/w".into())],
        };
        vec![
            (Channel::Email, Content::Email(email)),
            (Channel::Sms, Content::Text { body: text.into() }),
            (
                Channel::Whatsapp,
                Content::Whatsapp(Whatsapp::Text { body: text.into(), header, buttons: buttons.clone() }),
            ),
            (Channel::Whatsapp, Content::Whatsapp(template)),
            (Channel::Telegram, Content::Chat { html: "<a href='https://s.example/c'>c</a>".into(), buttons }),
            (Channel::WebPush, push(Some("https://s.example/p"))),
            (Channel::WebPush, push(Some("/p"))),
            (Channel::AppPush, push(Some("shop://p"))),
            (Channel::AppPush, push(None)),
            (Channel::Webhook, Content::Json { body: r#"{"u": "https://s.example"}"#.into() }),
        ]
    }

    #[test]
    fn each_channel_leads_through_us_where_its_project_says() {
        let mut told = String::new();
        for change in
            [json!({}), json!({"opens": false, "clicks": false, "unsubscribe": []}), json!({"channels": ["sms"]})]
        {
            let tracker = tracker(change.clone());
            told += &format!("# {change}\n");
            for (channel, content) in contents() {
                let delivery = delivery(channel);
                let tracked = Links::of(&tracker, &delivery, &reference(&delivery)).track(content, Lane::Bulk);
                told += &format!("{channel}: {}\n", read(&format!("{tracked:?}"), &tracker));
            }
        }
        insta::assert_snapshot!(told);
    }

    #[test]
    fn every_text_may_name_our_links_and_a_lane_without_the_header_has_none() {
        let (tracker, delivery) = (tracker(json!({})), delivery(Channel::Email));
        let links = Links::of(&tracker, &delivery, &reference(&delivery));
        let [leave, choose, confirm] = OwnLink::ALL.map(OwnLink::place);
        let mut variant = Variant {
            html: Some(format!("<a href=\"{leave}\">x</a>")),
            text: Some(format!("{leave} {choose} {confirm}")),
            data: [("leave".to_owned(), leave.to_owned())].into(),
            ..Variant::default()
        };
        links.put_into(&mut variant);
        let said = "[unsubscribe anna email 2 ] [preferences anna email 2 ] [confirm anna email 2 ]";
        assert_eq!(read(&variant.text.unwrap(), &tracker), said);
        let url = links.url(Purpose::Unsubscribe).unwrap();
        assert_eq!((variant.html.unwrap(), &variant.data["leave"]), (format!("<a href=\"{url}\">x</a>"), &url));
        for (lane, offered) in [(Lane::Bulk, Some(url)), (Lane::Transactional, None)] {
            let Content::Email(email) = links.track(Content::Email(Email::default()), lane) else { panic!() };
            assert_eq!(email.unsubscribe, offered);
        }
    }

    #[test]
    fn what_needs_an_opt_in_offers_one_click_in_every_lane_unless_none_does() {
        use Lane::{Bulk, Transactional};
        for (change, lane, template, is_offered) in [
            (json!({}), Bulk, "order", true),
            (json!({}), Transactional, "order", false),
            (json!({}), Transactional, "offer", true),
            (json!({"unsubscribe": ["transactional"]}), Bulk, "offer", true),
            (json!({"unsubscribe": ["transactional"]}), Bulk, "order", false),
            (json!({"unsubscribe": []}), Bulk, "offer", false),
        ] {
            assert_eq!(tracker(change.clone()).offers_one_click(lane, template), is_offered, "{change} {template}");
        }
    }
}
