//! The pages about a member's own matters: what comes by which channel, and whose an address is. Pure: choices in, HTML out.

use super::{Language, escaped, page};
use crate::http::tracking::{
    choices::{BUTTON, Choice, Choices, IS, LEAVE, SAVE, WAS, Wish},
    night::{self, Night},
};
use bellwether_schemas::{Channel, definitions::Category};

impl Language {
    /// What the page calls a category that every project has and few declare.
    #[must_use]
    pub fn built_in(self, category: &str) -> Option<&'static str> {
        Some(match (category, self) {
            (Category::MARKETING, Self::En) => "News and offers",
            (Category::MARKETING, Self::Es) => "Novedades y ofertas",
            (Category::MARKETING, Self::Pt) => "Novidades e ofertas",
            (Category::TRANSACTIONAL, Self::En) => "About your account and your orders",
            (Category::TRANSACTIONAL, Self::Es) => "Sobre tu cuenta y tus pedidos",
            (Category::TRANSACTIONAL, Self::Pt) => "Sobre sua conta e seus pedidos",
            _ => return None,
        })
    }

    /// What a channel is called above its boxes.
    const fn channel(self, channel: Channel) -> &'static str {
        match (channel, self) {
            (Channel::Email, Self::En | Self::Pt) => "E-mail",
            (Channel::Email, Self::Es) => "Correo electrónico",
            (Channel::Sms, _) => "SMS",
            (Channel::Whatsapp, _) => "WhatsApp",
            (Channel::Telegram, _) => "Telegram",
            (Channel::WebPush, Self::En) => "Notifications of the browser",
            (Channel::WebPush, Self::Es) => "Notificaciones del navegador",
            (Channel::WebPush, Self::Pt) => "Notificações do navegador",
            (Channel::AppPush, Self::En) => "Notifications of the app",
            (Channel::AppPush, Self::Es) => "Notificaciones de la aplicación",
            (Channel::AppPush, Self::Pt) => "Notificações do aplicativo",
            (Channel::Webhook, Self::En) => "Other messages",
            (Channel::Webhook, Self::Es) => "Otros mensajes",
            (Channel::Webhook, Self::Pt) => "Outras mensagens",
        }
    }
}

/// Shows what a member gets, and what was done of a wish.
#[must_use]
pub fn preferences(language: Language, project: &str, choices: &Choices, night: &Night, done: Option<&Wish>) -> String {
    let (title, text) = match language {
        Language::En => (format!("What you get from {project}"), "Tick what you want to get."),
        Language::Es => (format!("Lo que recibes de {project}"), "Marca lo que quieres recibir."),
        Language::Pt => (format!("O que você recebe de {project}"), "Marque o que você quer receber."),
    };
    if choices.is_empty() {
        return page(language, &title, nothing(language), "");
    }
    let status = done.map(|wish| format!(r#"<p role="status">{}</p>"#, said(language, wish))).unwrap_or_default();
    let fieldsets: String = choices.0.iter().map(|(channel, boxes)| fieldset(language, *channel, boxes)).collect();
    let (times, save, leave) = (times(language, night), save(language), leave(language));
    // A browser that fills in by itself what stood there before would show another state than the form carries.
    let form = format!(
        r#"{status}<form method="post" autocomplete="off">{fieldsets}{times}<button name="{BUTTON}" value="{SAVE}">{save}</button> <button class="quiet" name="{BUTTON}" value="{LEAVE}">{leave}</button></form>"#
    );
    page(language, &title, text, &form)
}

fn fieldset(language: Language, channel: Channel, boxes: &[Choice]) -> String {
    let boxes: String = boxes.iter().map(|choice| checkbox(language, channel, choice)).collect();
    format!("<fieldset><legend>{}</legend>{boxes}</fieldset>", language.channel(channel))
}

fn checkbox(language: Language, channel: Channel, choice: &Choice) -> String {
    let Choice { category, title, is_on, is_fixed } = choice;
    let (name, title) = (escaped(&format!("{channel}.{category}")), escaped(title));
    if *is_fixed {
        let why = always(language);
        return format!(
            r#"<label><input type="checkbox" checked disabled><span>{title}<small>{why}</small></span></label>"#
        );
    }
    let (was, checked) = if *is_on { ("on", " checked") } else { ("off", "") };
    format!(
        r#"<input type="hidden" name="{WAS}{name}" value="{was}"><label><input type="checkbox" name="{IS}{name}" value="on"{checked}><span>{title}</span></label>"#
    )
}

/// The quiet hours. Browsers show a clock of their own where a time is asked for, and send `HH:MM` (HTML, "Time state").
fn times(language: Language, night: &Night) -> String {
    let (legend, afterwards, from, to) = match language {
        Language::En => ("Quiet hours", "What can wait comes afterwards. Time zone:", "From", "To"),
        Language::Es => ("Horas de silencio", "Lo que puede esperar llega después. Zona horaria:", "Desde", "Hasta"),
        Language::Pt => ("Horário de silêncio", "O que pode esperar chega depois. Fuso horário:", "Das", "Às"),
    };
    let (shown, zone, checked) =
        (escaped(&night.shown()), escaped(&night.zone), if night.is_on { " checked" } else { "" });
    let asked = do_not_disturb(language);
    let time = |label: &str, name: &str, value: &str| {
        format!(r#"<label>{label} <input type="time" name="{name}" value="{}"></label>"#, escaped(value))
    };
    let times = time(from, night::FROM, &night.from) + &time(to, night::TO, &night.to);
    format!(
        r#"<fieldset><legend>{legend}</legend><input type="hidden" name="{}" value="{shown}"><label><input type="checkbox" name="{}" value="on"{checked}><span>{asked}<small>{afterwards} {zone}</small></span></label><div class="times">{times}</div></fieldset>"#,
        night::WAS,
        night::IS,
    )
}

/// What stands beside the box of the quiet hours.
#[must_use]
pub const fn do_not_disturb(language: Language) -> &'static str {
    match language {
        Language::En => "Do not disturb me between these times",
        Language::Es => "No molestarme entre estas horas",
        Language::Pt => "Não me incomodar entre estes horários",
    }
}

const fn save(language: Language) -> &'static str {
    match language {
        Language::En => "Save",
        Language::Es => "Guardar",
        Language::Pt => "Salvar",
    }
}

/// The button that ends all that can be refused.
#[must_use]
pub const fn leave(language: Language) -> &'static str {
    match language {
        Language::En => "Unsubscribe from all",
        Language::Es => "Darme de baja de todo",
        Language::Pt => "Cancelar todas as inscrições",
    }
}

const fn always(language: Language) -> &'static str {
    match language {
        Language::En => "Always on: these messages are necessary and cannot be turned off.",
        Language::Es => "Siempre activo: estos mensajes son necesarios y no se pueden desactivar.",
        Language::Pt => "Sempre ativo: estas mensagens são necessárias e não podem ser desativadas.",
    }
}

const fn nothing(language: Language) -> &'static str {
    match language {
        Language::En => "There is nothing to choose: we have no address of yours.",
        Language::Es => "No hay nada que elegir: no tenemos ninguna dirección tuya.",
        Language::Pt => "Não há nada para escolher: não temos nenhum endereço seu.",
    }
}

const fn said(language: Language, wish: &Wish) -> &'static str {
    match (wish, language) {
        (Wish::Save(_), Language::En) => "Saved. This is what you get from now on.",
        (Wish::Save(_), Language::Es) => "Guardado. Esto es lo que recibirás a partir de ahora.",
        (Wish::Save(_), Language::Pt) => "Salvo. Isto é o que você receberá a partir de agora.",
        (Wish::Leave, Language::En) => "Saved. You are unsubscribed from everything that can be turned off.",
        (Wish::Leave, Language::Es) => "Guardado. Te has dado de baja de todo lo que se puede desactivar.",
        (Wish::Leave, Language::Pt) => "Salvo. Você cancelou tudo o que pode ser desativado.",
    }
}

/// Says that a form is none of the page's as it is now.
#[must_use]
pub fn out_of_date(language: Language, field: &str) -> String {
    let (title, text, again) = match language {
        Language::En => ("This page was out of date", "Nothing was saved. What did not fit", "Open the page anew"),
        Language::Es => {
            ("Esta página no estaba al día", "No se ha guardado nada. Lo que no encajaba", "Abrir la página de nuevo")
        }
        Language::Pt => {
            ("Esta página estava desatualizada", "Nada foi salvo. O que não serviu", "Abrir a página de novo")
        }
    };
    // The form was posted to the page's own address.
    let field: String = field.chars().take(100).collect();
    page(language, title, &format!("{text}: {field}"), &format!(r#"<p><a href="">{again}</a></p>"#))
}

/// Says that a wish could not be noted.
#[must_use]
pub fn not_saved(language: Language) -> String {
    let (title, text) = match language {
        Language::En => ("Nothing was saved", "We cannot do it now. Please try again in a few minutes."),
        Language::Es => ("No se ha guardado nada", "Ahora no podemos hacerlo. Inténtalo de nuevo en unos minutos."),
        Language::Pt => ("Nada foi salvo", "Não podemos fazer isso agora. Tente de novo em alguns minutos."),
    };
    page(language, title, text, "")
}

/// Asks whether an address, masked, is the reader's. Looking at it changes nothing.
#[must_use]
pub fn confirm(language: Language, address: &str, project: &str) -> String {
    let (title, text, button) = match language {
        Language::En => (
            "Confirm your address",
            format!("{project} writes to {address} only if you say that it is yours."),
            format!("Yes, write to me at {address}"),
        ),
        Language::Es => (
            "Confirma tu dirección",
            format!("{project} escribirá a {address} solo si dices que es tuya."),
            format!("Sí, quiero recibir mensajes en {address}"),
        ),
        Language::Pt => (
            "Confirme seu endereço",
            format!("{project} só escreverá para {address} se você disser que é seu."),
            format!("Sim, quero receber mensagens em {address}"),
        ),
    };
    page(language, title, &text, &format!(r#"<form method="post"><button>{}</button></form>"#, escaped(&button)))
}

/// Says that an address is confirmed.
#[must_use]
pub fn confirmed(language: Language) -> String {
    let (title, text) = match language {
        Language::En => ("Thank you", "Your address is confirmed."),
        Language::Es => ("Gracias", "Tu dirección está confirmada."),
        Language::Pt => ("Obrigado", "Seu endereço está confirmado."),
    };
    page(language, title, text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices() -> Choices {
        let choice = |category: &str, is_on, is_fixed| Choice {
            category: category.into(),
            title: format!("<{category}>"),
            is_on,
            is_fixed,
        };
        let boxes = vec![choice("news", true, false), choice("orders", false, false), choice("security", true, true)];
        Choices(Channel::ALL.map(|channel| (channel, boxes.clone())).into())
    }

    fn night() -> Night {
        Night { is_on: true, from: "22:00".into(), to: "08:00".into(), zone: "Europe/<Madrid>".into() }
    }

    /// Every page about a member's matters.
    fn pages(language: Language) -> Vec<String> {
        vec![
            preferences(language, "shop", &choices(), &night(), None),
            preferences(language, "shop", &choices(), &night(), Some(&Wish::Save(Vec::new()))),
            preferences(language, "shop", &choices(), &night(), Some(&Wish::Leave)),
            preferences(language, "shop", &Choices(Vec::new()), &night(), None),
            out_of_date(language, "was.email.<news>"),
            not_saved(language),
            confirm(language, "a***@example.org", "shop"),
            confirmed(language),
        ]
    }

    #[test]
    fn every_page_is_whole_in_every_language_and_has_no_script() {
        let [english, spanish, portuguese] = Language::ALL.map(|(_, language)| pages(language));
        for ((english, spanish), portuguese) in english.iter().zip(&spanish).zip(&portuguese) {
            assert!(english != spanish && spanish != portuguese && portuguese != english, "{english}");
        }
        for (name, language) in Language::ALL {
            for html in pages(language) {
                assert!(html.contains(&format!("<html lang=\"{name}\">")) && html.contains("width=device-width"));
                assert!(html.matches("<h1>").count() == 1 && !html.contains("<script"), "{html}");
            }
        }
    }

    #[test]
    fn every_box_has_a_label_and_every_group_a_legend() {
        for (_, language) in Language::ALL {
            let html = preferences(language, "shop", &choices(), &night(), None);
            let labelled = html.matches(r#"<label><input type="checkbox""#).count();
            let all = html.matches("<input").count() - html.matches(r#"<input type="hidden""#).count();
            let times = html.matches(r#" <input type="time""#).count();
            assert_eq!((labelled, times, all), (22, 2, 24), "{html}");
            assert_eq!(html.matches("<fieldset><legend>").count(), 8);
            assert_eq!(html.matches(&format!("<small>{}", always(language))).count(), 7, "each says why it is fixed");
            assert!(html.contains("&lt;news&gt;") && !html.contains("<news>"), "{html}");
        }
    }

    #[test]
    fn the_night_is_shown_with_its_zone() {
        assert_eq!(
            times(Language::En, &night()),
            "<fieldset><legend>Quiet hours</legend><input type=\"hidden\" name=\"was.night\" value=\"22:00-08:00\">\
             <label><input type=\"checkbox\" name=\"is.night\" value=\"on\" checked><span>Do not disturb me between these times\
             <small>What can wait comes afterwards. Time zone: Europe/&lt;Madrid&gt;</small></span></label>\
             <div class=\"times\"><label>From <input type=\"time\" name=\"is.night.from\" value=\"22:00\"></label>\
             <label>To <input type=\"time\" name=\"is.night.to\" value=\"08:00\"></label></div></fieldset>"
        );
        let none = times(Language::En, &Night { is_on: false, ..night() });
        assert!(none.contains(r#"name="was.night" value="off""#) && !none.contains("checked"), "{none}");
    }

    #[test]
    fn the_form_carries_what_it_shows() {
        let boxes = &choices().0[0].1;
        assert_eq!(
            fieldset(Language::En, Channel::Email, &boxes[..2]),
            "<fieldset><legend>E-mail</legend>\
             <input type=\"hidden\" name=\"was.email.news\" value=\"on\">\
             <label><input type=\"checkbox\" name=\"is.email.news\" value=\"on\" checked><span>&lt;news&gt;</span></label>\
             <input type=\"hidden\" name=\"was.email.orders\" value=\"off\">\
             <label><input type=\"checkbox\" name=\"is.email.orders\" value=\"on\"><span>&lt;orders&gt;</span></label>\
             </fieldset>"
        );
    }
}
