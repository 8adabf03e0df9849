//! The few pages that a reader of a message sees of us, in the reader's language, small and without script. Pure: words in, HTML out.
//! Here are their language, their frame and style, and those that need no more than the link; `member` has those about a member's matters.

mod member;

pub use member::{confirm, confirmed, do_not_disturb, leave, not_saved, out_of_date, preferences};

use bellwether_schemas::Channel;

/// Languages that the pages are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English.
    En,
    /// Spanish.
    Es,
    /// Portuguese.
    Pt,
}

impl Language {
    const ALL: [(&'static str, Self); 3] = [("en", Self::En), ("es", Self::Es), ("pt", Self::Pt)];

    /// The language that the reader's browser asks for first (`Accept-Language`, RFC 9110 section 12.5.4); where it asks for none of ours, that
    /// of `fallback`, a locale; else English.
    #[must_use]
    pub fn of(accepted: &str, fallback: &str) -> Self {
        let asked = accepted.split(',').take(20).filter_map(|range| {
            let (tag, quality) = range.split_once(";q=").unwrap_or((range, "1"));
            Some((Self::of_locale(tag)?, quality.trim().parse::<f32>().ok().filter(|quality| *quality > 0.0)?))
        });
        // Of equal wishes the first one stands.
        let best = asked.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(language, _)| language).or_else(|| Self::of_locale(fallback)).unwrap_or(Self::En)
    }

    /// The language of a locale, where it is one of ours.
    #[must_use]
    pub fn of_locale(locale: &str) -> Option<Self> {
        let wanted = locale.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
        Self::ALL.into_iter().find(|(name, _)| *name == wanted).map(|(_, language)| language)
    }

    /// As a locale (BCP 47).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Es => "es",
            Self::Pt => "pt",
        }
    }

    /// What a channel's messages are called.
    const fn messages(self, channel: Channel) -> &'static str {
        match (channel, self) {
            (Channel::Email, Self::En) => "e-mails",
            (Channel::Email, Self::Es) => "correos",
            (Channel::Email, Self::Pt) => "e-mails",
            (Channel::Sms, _) => "SMS",
            (Channel::Whatsapp, Self::En) => "WhatsApp messages",
            (Channel::Whatsapp, Self::Es) => "mensajes de WhatsApp",
            (Channel::Whatsapp, Self::Pt) => "mensagens do WhatsApp",
            (Channel::Telegram, Self::En) => "Telegram messages",
            (Channel::Telegram, Self::Es) => "mensajes de Telegram",
            (Channel::Telegram, Self::Pt) => "mensagens do Telegram",
            (Channel::WebPush | Channel::AppPush, Self::En) => "notifications",
            (Channel::WebPush | Channel::AppPush, Self::Es) => "notificaciones",
            (Channel::WebPush | Channel::AppPush, Self::Pt) => "notificações",
            (Channel::Webhook, Self::En) => "messages",
            (Channel::Webhook, Self::Es) => "mensajes",
            (Channel::Webhook, Self::Pt) => "mensagens",
        }
    }
}

/// Asks whether to unsubscribe, or leads to where more can be chosen. Looking at it changes nothing: scanners and previews look, only a person
/// presses the button.
#[must_use]
pub fn ask(language: Language, channel: Channel, project: &str, preferences: Option<&str>) -> String {
    let messages = language.messages(channel);
    let (title, question, button) = match language {
        Language::En => ("Unsubscribe", format!("You will get no more {messages} from {project}."), "Unsubscribe"),
        Language::Es => ("Darse de baja", format!("No recibirás más {messages} de {project}."), "Darme de baja"),
        Language::Pt => {
            ("Cancelar inscrição", format!("Você não receberá mais {messages} de {project}."), "Cancelar inscrição")
        }
    };
    let form = format!(
        r#"<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click"><button>{button}</button></form>{}"#,
        choose(language, preferences)
    );
    page(language, title, &question, &form)
}

/// Says that it is done, and leads to where more can be chosen.
#[must_use]
pub fn done(language: Language, channel: Channel, project: &str, preferences: Option<&str>) -> String {
    let messages = language.messages(channel);
    let (title, text) = match language {
        Language::En => ("You are unsubscribed", format!("You will get no more {messages} from {project}.")),
        Language::Es => ("Te has dado de baja", format!("No recibirás más {messages} de {project}.")),
        Language::Pt => ("Inscrição cancelada", format!("Você não receberá mais {messages} de {project}.")),
    };
    page(language, title, &text, &choose(language, preferences))
}

/// A link to the preference page.
fn choose(language: Language, url: Option<&str>) -> String {
    let text = match language {
        Language::En => "Choose what you get",
        Language::Es => "Elegir qué recibes",
        Language::Pt => "Escolher o que você recebe",
    };
    url.map(|url| format!(r#"<p><a href="{}">{text}</a></p>"#, escaped(url))).unwrap_or_default()
}

/// Says that the link is none of ours.
#[must_use]
pub fn unknown(language: Language) -> String {
    let (title, text) = match language {
        Language::En => ("This link does not work", "It was cut short, or is too old."),
        Language::Es => ("Este enlace no funciona", "Está incompleto o es demasiado antiguo."),
        Language::Pt => ("Este link não funciona", "Está incompleto ou é antigo demais."),
    };
    page(language, title, text, "")
}

/// Says that we cannot take note now, and where the link leads all the same.
#[must_use]
pub fn later(language: Language, target: Option<&str>) -> String {
    let (title, text, go_on) = match language {
        Language::En => ("One moment, please", "We cannot answer now. Please try again in a few minutes.", "Go on"),
        Language::Es => {
            ("Un momento, por favor", "Ahora no podemos responder. Inténtalo de nuevo en unos minutos.", "Continuar")
        }
        Language::Pt => {
            ("Um momento, por favor", "Não podemos responder agora. Tente de novo em alguns minutos.", "Continuar")
        }
    };
    let link = target.map(|target| format!(r#"<p><a href="{}" rel="noreferrer">{go_on}</a></p>"#, escaped(target)));
    page(language, title, text, &link.unwrap_or_default())
}

/// The pages' style; their policy allows no other. Whatever can be pressed is 44 px high at least, and the colours, by day and by night, are told
/// apart as WCAG AA asks (a test computes it).
pub const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#ffffff;--accent:#1d4ed8;--onaccent:#ffffff;--line:#6b7280}\
@media(prefers-color-scheme:dark){:root{--ink:#f3f4f6;--paper:#16181d;--accent:#a5c0ff;--onaccent:#10131a;--line:#9ca3af}}\
*{box-sizing:border-box}\
body{font:1.125rem/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:8vh auto;max-width:28rem;padding:0 1rem;overflow-wrap:anywhere}\
h1{font-size:1.6rem;line-height:1.25}\
a{color:var(--accent);display:inline-block;padding:.5rem 0;min-height:2.75rem}\
button{font:inherit;color:var(--onaccent);background:var(--accent);border:1px solid var(--accent);border-radius:.4rem;padding:.75rem 1.5rem;margin:.25rem 0;min-height:3rem;cursor:pointer}\
button.quiet{color:var(--ink);background:none;border-color:var(--line)}\
fieldset{border:1px solid var(--line);border-radius:.4rem;margin:0 0 1rem;padding:.25rem 1rem;min-width:0}\
legend{font-weight:600;padding:0 .4rem}\
label{display:flex;gap:.75rem;align-items:center;min-height:2.75rem;padding:.25rem 0;cursor:pointer}\
input{flex:none;width:1.5rem;height:1.5rem;margin:0;accent-color:var(--accent)}\
input[type=time]{width:auto;height:2.75rem;font:inherit;color:inherit;background:none;border:1px solid var(--line);border-radius:.4rem;padding:0 .5rem}\
.times{display:flex;flex-wrap:wrap;gap:0 1.5rem}\
small{display:block;font-size:.9rem}\
[role=status]{border:1px solid var(--line);border-left:.4rem solid var(--accent);border-radius:.4rem;padding:.75rem 1rem}\
a:focus-visible,button:focus-visible,input:focus-visible{outline:3px solid var(--ink);outline-offset:3px}";

fn page(language: Language, title: &str, text: &str, form: &str) -> String {
    let lang = language.name();
    let (title, text) = (escaped(title), escaped(text));
    format!(
        r#"<!doctype html>
<html lang="{lang}"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<style>{STYLE}</style></head>
<body><main><h1>{title}</h1><p>{text}</p>{form}</main></body></html>
"#
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_readers_language_is_the_one_most_wished_for() {
        for (accepted, fallback, language) in [
            ("es-AR,es;q=0.9,en;q=0.8", "en", Language::Es),
            ("fr,pt;q=0.5,en;q=0.7", "es", Language::En),
            ("fr, de", "pt-BR", Language::Pt),
            ("en;q=0, PT", "es", Language::Pt),
            ("", "fr", Language::En),
            ("es;q=x, *", "de", Language::En),
            ("en,es", "pt", Language::En),
        ] {
            assert_eq!(Language::of(accepted, fallback), language, "{accepted}");
        }
    }

    /// Contrast of two colours, `rrggbb` (WCAG 2.2, "contrast ratio").
    fn contrast(one: &str, other: &str) -> f64 {
        let luminance = |colour: &str| {
            let part = |at: usize, weight: f64| {
                let part = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
                weight * if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            };
            part(0, 0.2126) + part(2, 0.7152) + part(4, 0.0722) + 0.05
        };
        let (one, other) = (luminance(one), luminance(other));
        one.max(other) / one.min(other)
    }

    #[test]
    fn colours_are_told_apart_by_day_and_by_night() {
        assert!((contrast("ffffff", "000000") - 21.0).abs() < 1e-9);
        let (day, night) = STYLE.split_once("@media(prefers-color-scheme:dark)").unwrap();
        for (scheme, name) in [(day, "day"), (night, "night")] {
            let colour = |name: &str| scheme.split_once(&format!("--{name}:#")).unwrap().1.get(..6).unwrap();
            for (front, back, least) in
                [("ink", "paper", 4.5), ("accent", "paper", 4.5), ("onaccent", "accent", 4.5), ("line", "paper", 3.0)]
            {
                let found = contrast(colour(front), colour(back));
                assert!(found >= least, "{front} on {back} by {name}: {found}");
            }
        }
    }

    #[test]
    fn pages_are_whole_in_every_language() {
        let mut all = String::new();
        for (name, language) in Language::ALL {
            for html in [
                ask(language, Channel::Email, "shop", Some("https://l.example/p")),
                done(language, Channel::WebPush, "shop", None),
                unknown(language),
                later(language, Some("https://shop.example/?a=1&b=\"2\"")),
            ] {
                assert!(html.contains(&format!("<html lang=\"{name}\">")) && !html.contains("<script"));
                let (head, body) = html.split_once("<main>").unwrap_or_default();
                let title = head.split(['<', '>']).skip_while(|part| *part != "title").nth(1);
                all += &format!(
                    "{name}: {} | {}\n",
                    title.unwrap_or_default(),
                    body.split("</main>").next().unwrap_or_default()
                );
            }
        }
        insta::assert_snapshot!(all);
    }
}
