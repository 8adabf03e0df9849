//! What a member says to us, whatever the channel, and the few words that mean something to us. Pure.
//! What follows from them (consent, replies) is decided elsewhere.

use bellwether_schemas::{Channel, Timestamp};

/// A message of a member's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Where it was said.
    pub channel: Channel,
    /// The member's address in the channel's normal form: E.164 with `+`, or the number of a chat.
    pub from: String,
    /// When it was said, by the provider's clock where it tells.
    pub at: Timestamp,
    /// What was said; empty where it was no text.
    pub text: String,
    /// What it means to us, if anything.
    pub keyword: Option<Keyword>,
    /// The provider's own id of it, to know a repetition by.
    pub id: String,
}

/// A word that a member may say at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keyword {
    /// Send me nothing more.
    Stop,
    /// Send to me again.
    Start,
    /// Who are you, and how do I stop you? Noted, and answered by nobody here: on SMS Twilio and the carriers answer it, and a second answer
    /// would be one too many.
    Help,
}

/// Every word, as [`folded`] makes it: sorted, so that it can be searched and no word has two meanings.
///
/// English ones are those of the CTIA's handbook, of Twilio (<https://help.twilio.com/articles/223134027>) and of the FCC's rule of 2025 (47 CFR
/// 64.1200(a)(10): stop, quit, end, revoke, opt out, cancel, unsubscribe); Spanish and Portuguese ones are those that senders announce there,
/// with their imperatives and reflexives. A word that may be an answer to
/// a question (`yes`, `si`, `sim`, `ok`) starts nothing, although Twilio takes `YES` so: consent must be unmistakable, and a member who
/// confirms an order has not given it. Words that stop are taken generously: to be silent by mistake is the lesser harm.
const WORDS: &[(&str, Keyword)] = &[
    ("ajuda", Keyword::Help),
    ("alta", Keyword::Start),
    ("alto", Keyword::Stop),
    ("anular", Keyword::Stop),
    ("anular suscripcion", Keyword::Stop),
    ("ayuda", Keyword::Help),
    ("baja", Keyword::Stop),
    ("basta", Keyword::Stop),
    ("borrar", Keyword::Stop),
    ("borrarme", Keyword::Stop),
    ("cadastrar", Keyword::Start),
    ("cancel", Keyword::Stop),
    ("cancelar", Keyword::Stop),
    ("cancelar assinatura", Keyword::Stop),
    ("cancelar inscricao", Keyword::Stop),
    ("cancelar mi suscripcion", Keyword::Stop),
    ("cancelar suscripcion", Keyword::Stop),
    ("comecar", Keyword::Start),
    ("comenzar", Keyword::Start),
    ("dar de baja", Keyword::Stop),
    ("darme de baja", Keyword::Stop),
    ("darse de baja", Keyword::Stop),
    ("descadastrar", Keyword::Stop),
    ("descadastre", Keyword::Stop),
    ("descadastro", Keyword::Stop),
    ("desinscreva", Keyword::Stop),
    ("desinscrever", Keyword::Stop),
    ("desuscribe", Keyword::Stop),
    ("desuscribir", Keyword::Stop),
    ("desuscribirme", Keyword::Stop),
    ("desuscribirse", Keyword::Stop),
    ("desuscripcion", Keyword::Stop),
    ("detener", Keyword::Stop),
    ("eliminar", Keyword::Stop),
    ("encerrar", Keyword::Stop),
    ("end", Keyword::Stop),
    ("finalizar", Keyword::Stop),
    ("help", Keyword::Help),
    ("info", Keyword::Help),
    ("informacao", Keyword::Help),
    ("informacion", Keyword::Help),
    ("iniciar", Keyword::Start),
    ("inscrever", Keyword::Start),
    ("me remova", Keyword::Stop),
    ("nao enviar", Keyword::Stop),
    ("nao envie", Keyword::Stop),
    ("nao quero", Keyword::Stop),
    ("no enviar", Keyword::Stop),
    ("no envie", Keyword::Stop),
    ("no mas", Keyword::Stop),
    ("no quiero", Keyword::Stop),
    ("opt in", Keyword::Start),
    ("opt out", Keyword::Stop),
    ("optin", Keyword::Start),
    ("optout", Keyword::Stop),
    ("parar", Keyword::Stop),
    ("pare", Keyword::Stop),
    ("parem", Keyword::Stop),
    ("quit", Keyword::Stop),
    ("reanudar", Keyword::Start),
    ("reiniciar", Keyword::Start),
    ("remova", Keyword::Stop),
    ("remove", Keyword::Stop),
    ("remover", Keyword::Stop),
    ("resume", Keyword::Start),
    ("retomar", Keyword::Start),
    ("revoke", Keyword::Stop),
    ("sair", Keyword::Stop),
    ("sair da lista", Keyword::Stop),
    ("salir", Keyword::Stop),
    ("start", Keyword::Start),
    ("stop", Keyword::Stop),
    ("stop all", Keyword::Stop),
    ("stopall", Keyword::Stop),
    ("subscribe", Keyword::Start),
    ("suscribir", Keyword::Start),
    ("suscribirme", Keyword::Start),
    ("suscribirse", Keyword::Start),
    ("terminar", Keyword::Stop),
    ("unstop", Keyword::Start),
    ("unsub", Keyword::Stop),
    ("unsubscribe", Keyword::Stop),
    ("unsubscribe me", Keyword::Stop),
];

/// No word is longer, so a longer text is none.
const MAX_WORD: usize = 64;

impl Keyword {
    /// The word that a whole message is, whatever its case, accents and punctuation. A word within a sentence is none.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        if text.trim().len() > MAX_WORD {
            return None;
        }
        let word = folded(text);
        let at = WORDS.binary_search_by_key(&word.as_str(), |(known, _)| known).ok()?;
        WORDS.get(at).map(|(_, keyword)| *keyword)
    }
}

/// Small letters without accents; everything that is no letter or digit parts words.
fn folded(text: &str) -> String {
    let letters = text.chars().flat_map(char::to_lowercase).filter_map(|c| match c {
        'á' | 'à' | 'â' | 'ã' | 'ä' => Some('a'),
        'é' | 'è' | 'ê' | 'ë' => Some('e'),
        'í' | 'ì' | 'î' | 'ï' => Some('i'),
        'ó' | 'ò' | 'ô' | 'õ' | 'ö' => Some('o'),
        'ú' | 'ù' | 'û' | 'ü' => Some('u'),
        'ç' => Some('c'),
        'ñ' => Some('n'),
        // Accents that stand alone, as some keyboards write them.
        '\u{300}'..='\u{36f}' => None,
        _ => Some(if c.is_alphanumeric() { c } else { ' ' }),
    });
    letters.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_word_means_one_thing() {
        assert!(WORDS.is_sorted_by(|one, next| one.0 < next.0), "sorted, each once");
        for (word, keyword) in WORDS {
            assert_eq!(folded(word), *word);
            assert!(word.len() <= MAX_WORD);
            for text in [(*word).to_owned(), word.to_uppercase(), format!(" «{word}»!!\n")] {
                assert_eq!(Keyword::of(&text), Some(*keyword), "{text}");
            }
        }
    }

    #[test]
    fn each_language_has_words_for_all_three() {
        for (language, stop, start, help) in [
            (
                "en",
                "stop stopall unsubscribe cancel end quit revoke optout opt-out",
                "start unstop subscribe",
                "help info",
            ),
            (
                "es",
                "baja alto parar pare cancelar detener salir terminar anular desuscribirme",
                "alta iniciar comenzar reanudar",
                "ayuda información",
            ),
            (
                "pt",
                "parar pare sair cancelar descadastrar remover desinscrever encerrar",
                "iniciar começar inscrever retomar",
                "ajuda informação",
            ),
        ] {
            for (words, keyword) in [(stop, Keyword::Stop), (start, Keyword::Start), (help, Keyword::Help)] {
                for word in words.split(' ') {
                    assert_eq!(Keyword::of(word), Some(keyword), "{language}: {word}");
                }
            }
        }
    }

    #[test]
    fn a_whole_message_is_a_word_and_a_part_is_none() {
        for (text, keyword) in [
            ("STOP", Some(Keyword::Stop)),
            ("Stop.", Some(Keyword::Stop)),
            ("STOP-ALL", Some(Keyword::Stop)),
            ("opt-out", Some(Keyword::Stop)),
            ("🛑 stop 🛑", Some(Keyword::Stop)),
            ("CANCELAR SUSCRIPCIÓN", Some(Keyword::Stop)),
            ("cancelar inscric\u{327}a\u{303}o", Some(Keyword::Stop)),
            ("Começar", Some(Keyword::Start)),
            ("¿Ayuda?", Some(Keyword::Help)),
            ("please stop", None),
            ("stop it", None),
            ("nonstop", None),
            ("s t o p", None),
            ("yes", None),
            ("Sí", None),
            ("sim", None),
            ("ok", None),
            ("no", None),
            ("", None),
            ("!!!", None),
        ] {
            assert_eq!(Keyword::of(text), keyword, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_us_panic(text in any::<String>()) {
            prop_assert!(Keyword::of(&text).is_none() || text.trim().len() <= MAX_WORD);
        }

        #[test]
        fn nothing_but_its_letters_makes_a_word(before in "[ .,!?¡¿\"'\n]{0,5}", after in "[ .,!?\"'\n]{0,5}") {
            prop_assert_eq!(Keyword::of(&format!("{before}StOp{after}")), Some(Keyword::Stop));
        }
    }
}
