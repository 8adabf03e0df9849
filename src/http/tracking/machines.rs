//! Who reads: a person, or something that reads for the person (a mail provider's image proxy, a scanner, a preview). Pure; the rules and where
//! they come from are `machines.csv`. A machine that says nothing of itself is taken for a person: nobody can tell.

use axum::http::{HeaderMap, Method};
use std::sync::LazyLock;

/// One line of the table. `text` is compared in lower case.
struct Rule {
    header: &'static str,
    how: How,
    text: &'static str,
}

#[derive(Clone, Copy)]
enum How {
    Is,
    Begins,
    Contains,
}

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(include_str!("machines.csv")).collect());

fn rules(table: &'static str) -> impl Iterator<Item = Rule> {
    table.lines().skip(1).filter_map(|line| {
        let mut cells = line.split(',');
        let (header, how, text) = (cells.next()?, cells.next()?, cells.next()?);
        let how = match how {
            "is" => How::Is,
            "begins" => How::Begins,
            "contains" => How::Contains,
            _ => return None,
        };
        Some(Rule { header, how, text })
    })
}

/// Whether the request is a machine's: HEAD is, because no person's browser opens anything by it.
#[must_use]
pub fn is_machine(method: &Method, headers: &HeaderMap) -> bool {
    let said = |header: &str| {
        let value =
            headers.get(header).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase());
        // A header that is missing matches what an empty one does.
        value.unwrap_or_default()
    };
    *method == Method::HEAD
        || RULES.iter().any(|rule| match rule.how {
            How::Is => said(rule.header) == rule.text,
            How::Begins => said(rule.header).starts_with(rule.text),
            How::Contains => said(rule.header).contains(rule.text),
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    const SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1";

    fn machine(method: &str, headers: &[(&str, &str)]) -> bool {
        let pair =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        is_machine(&method.parse().unwrap(), &headers.iter().map(pair).collect())
    }

    #[test]
    fn every_line_of_the_table_is_a_rule_with_a_source() {
        let table = include_str!("machines.csv");
        assert_eq!(table.lines().count() - 1, RULES.len());
        for line in table.lines().skip(1) {
            let cells: Vec<_> = line.split(',').collect();
            assert_eq!(cells.len(), 5, "{line}");
            assert_eq!(cells[2], cells[2].to_lowercase(), "{line}");
            let source = cells[4];
            assert!(
                source.starts_with("https://") || source.starts_with("RFC ") || source == "seen in practice",
                "{line}"
            );
        }
    }

    #[test]
    fn people_are_people() {
        for agent in [
            SAFARI,
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0",
            "Mozilla/5.0 (Linux; Android 14; CUBOT P80) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36",
            "Mozilla/4.0 (compatible; ms-office; MSOffice 16)",
            "Mozilla/5.0 (Windows NT 10.0; rv:128.0) Gecko/20100101 Thunderbird/128.4.0",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 350.0",
        ] {
            assert!(!machine("GET", &[("user-agent", agent)]), "{agent}");
        }
        assert!(!machine("GET", &[("user-agent", SAFARI), ("sec-fetch-purpose", "x"), ("sec-purpose", "")]));
    }

    #[test]
    fn machines_are_machines() {
        for agent in [
            "Mozilla/5.0",
            " mozilla/5.0 ",
            "",
            "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
            "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
            "Barracuda Sentinel (EE)",
            "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
            "WhatsApp/2.24.20.89 A",
            "TelegramBot (like TwitterBot)",
            "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
            "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/130.0.0.0 Safari/537.36",
            "curl/8.10.1",
            "python-requests/2.32.3",
        ] {
            assert!(machine("GET", &[("user-agent", agent)]), "{agent}");
        }
        assert!(machine("GET", &[]));
        assert!(machine("HEAD", &[("user-agent", SAFARI)]));
        for (header, value) in [
            ("purpose", "prefetch"),
            ("sec-purpose", "prefetch;prerender"),
            ("x-purpose", "preview"),
            ("x-moz", "prefetch"),
        ] {
            assert!(machine("GET", &[("user-agent", SAFARI), (header, value)]), "{header}: {value}");
        }
    }
}
