//! MJML (<https://documentation.mjml.io>) to HTML, once, when definitions are compiled: before the template engine sees
//! the text. Pure; it includes no files.
//!
//! What belongs to the template engine (`{{ … }}`, `{% … %}`, `{# … #}`) is put aside while MJML is converted and put
//! back where it was, so it may hold quotes and angle brackets and stand in text, in attributes and between elements.
//! Letters beyond ASCII are put aside too, because the converter's reader (htmlparser 0.2.1) cuts them apart, and
//! panics, where a `>` follows in text.

use mrml::prelude::{
    parser::{Error, ParserOptions, noop_loader::NoopIncludeLoader},
    render::RenderOptions,
};
use std::ops::Range;

/// Nesting of elements; mail of hand or editor has some twenty. The converter recurses, so it must end.
const MAX_DEPTH: usize = 100;
/// Elements of HTML that have no end.
const VOID: [&str; 8] = ["area", "br", "col", "hr", "img", "input", "link", "meta"];

/// Why a text cannot be converted, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {problem}")]
pub struct MjmlError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and how to mend it.
    pub problem: String,
}

/// Converts MJML into HTML that is a template still: what stands in braces stands there afterwards.
///
/// # Errors
/// It is no MJML, or something in braces would be lost or repeated.
pub fn mjml_to_html(text: &str) -> Result<String, MjmlError> {
    let aside = Aside::of(text)?;
    if let Some(at) = too_deep(&aside.text) {
        return Err(error_at(text, aside.origin(at), format!("elements are nested deeper than {MAX_DEPTH}")));
    }
    let options = ParserOptions { include_loader: Box::new(NoopIncludeLoader) };
    let parsed = mrml::parse_with_options(&aside.text, &options).map_err(|error| {
        let (at, problem) = explained(&error);
        error_at(text, aside.origin(at), problem)
    })?;
    // The fonts that are known by default would be fetched from a third party whenever the mail is opened.
    let options = RenderOptions { fonts: Default::default(), ..RenderOptions::default() };
    let html = parsed.element.render(&options);
    let html = html.map_err(|error| error_at(text, 0, format!("cannot be rendered: {error}")))?;
    if let Some(name) = unknown(&html) {
        let at = aside.text.find(&format!("<{name}")).unwrap_or(0);
        return Err(error_at(text, aside.origin(at), format!("there is no element `{name}` in MJML, or not here")));
    }
    aside.put_back(text, &html)
}

/// An element of MJML that was taken for HTML.
fn unknown(html: &str) -> Option<&str> {
    let (_, rest) = html.split_once("<mj-")?;
    let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(rest.len());
    let start = html.len() - rest.len() - "mj-".len();
    html.get(start..start + "mj-".len() + length)
}

/// The byte where it goes wrong, and words for it.
fn explained(error: &Error) -> (usize, String) {
    match error {
        Error::UnexpectedToken { position, .. } => {
            (position.start, "does not belong here: put template tags between elements into `<mj-raw>`".into())
        }
        Error::UnexpectedElement { position, .. } => (position.start, "this element does not belong here".into()),
        Error::MissingAttribute { name, position, .. } => (position.start, format!("attribute `{name}` is missing")),
        Error::InvalidAttribute { position, .. } => (position.start, "this attribute does not do".into()),
        Error::InvalidFormat { position, .. } => (position.start, "is no well-formed MJML".into()),
        Error::IncludeLoaderError { position, .. } => {
            (position.start, "nothing is included: use a layout of the template engine".into())
        }
        Error::NoRootNode => (0, "is no MJML: begin with `<mjml><mj-body>`".into()),
        Error::EndOfStream { .. } => (usize::MAX, "ends too early: an element is not closed".into()),
        other => (0, other.to_string()),
    }
}

/// A text whose tags and letters beyond ASCII were replaced by words that mean nothing to MJML.
struct Aside {
    text: String,
    prefix: String,
    /// Where each piece was, and where its word is.
    tags: Vec<(Range<usize>, Range<usize>)>,
}

impl Aside {
    fn of(text: &str) -> Result<Self, MjmlError> {
        let mut prefix = String::from("mjtag");
        while text.contains(&prefix) {
            prefix.push('q');
        }
        let mut this = Self { text: String::with_capacity(text.len()), prefix, tags: Vec::new() };
        let mut rest = 0;
        while let Some(start) =
            text[rest..].char_indices().find(|&(at, _)| begins(&text[rest + at..])).map(|(at, _)| rest + at)
        {
            let end = match close(&text[start..]) {
                Some(close) => {
                    let end = text[start + 2..].find(close).map(|at| start + 2 + at + close.len());
                    end.ok_or_else(|| error_at(text, start, format!("is not closed by `{close}`")))?
                }
                None => text[start..].find(|c: char| c.is_ascii()).map_or(text.len(), |at| start + at),
            };
            this.text.push_str(&text[rest..start]);
            let begin = this.text.len();
            this.text.push_str(&this.word(this.tags.len()));
            this.tags.push((start..end, begin..this.text.len()));
            rest = end;
        }
        this.text.push_str(&text[rest..]);
        Ok(this)
    }

    /// No word is the beginning of another.
    fn word(&self, n: usize) -> String {
        format!("{}{n}e", self.prefix)
    }

    /// Where a byte of the replaced text was in the original one.
    fn origin(&self, at: usize) -> usize {
        let before = self.tags.iter().rev().find(|(_, word)| word.start <= at);
        match before {
            Some((tag, word)) if at < word.end => tag.start,
            Some((tag, word)) => tag.end.saturating_add(at - word.end),
            None => at,
        }
    }

    /// Puts every tag back. One that steers must be there exactly once, or the template would be another one.
    fn put_back(&self, original: &str, html: &str) -> Result<String, MjmlError> {
        let mut out = html.to_owned();
        for (n, (tag, _)) in self.tags.iter().enumerate() {
            let (word, text) = (self.word(n), &original[tag.clone()]);
            let count = out.matches(&word).count();
            let problem = match (count, text.get(..2)) {
                (0, Some("{{" | "{%")) => {
                    Some("is lost in the conversion: put it into text, an attribute or `<mj-raw>`")
                }
                (2.., Some("{%")) => Some("would be repeated by the conversion: put it into text or `<mj-raw>`"),
                _ => None,
            };
            if let Some(problem) = problem {
                return Err(error_at(original, tag.start, problem.into()));
            }
            out = out.replace(&word, text);
        }
        Ok(out)
    }
}

/// Whether a piece to be put aside begins here.
fn begins(text: &str) -> bool {
    close(text).is_some() || !text.starts_with(|c: char| c.is_ascii())
}

/// What ends the tag that begins here, if one does.
fn close(text: &str) -> Option<&'static str> {
    match text.as_bytes() {
        [b'{', b'{', ..] => Some("}}"),
        [b'{', b'%', ..] => Some("%}"),
        [b'{', b'#', ..] => Some("#}"),
        _ => None,
    }
}

/// Where nesting goes too deep, if it does. Counts generously: what is not closed counts until the end.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.match_indices('<').find_map(|(at, _)| {
        let rest = &text[at + 1..];
        let name = rest.split(|c: char| c.is_whitespace() || c == '>' || c == '/').next().unwrap_or_default();
        if rest.starts_with('/') {
            depth = depth.saturating_sub(1);
        } else if name.starts_with(|c: char| c.is_ascii_alphabetic()) && !VOID.contains(&name) {
            let is_empty = rest.split('>').next().is_some_and(|tag| tag.ends_with('/'));
            depth += usize::from(!is_empty);
        }
        (depth > MAX_DEPTH).then_some(at)
    })
}

fn error_at(text: &str, at: usize, problem: String) -> MjmlError {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    MjmlError { line, column, problem }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use minijinja::{Environment, context};
    use proptest::prelude::*;

    const ORDER: &str = r#"<mjml>
  <mj-head><mj-title>{{ shop }}</mj-title><mj-preview>{{ shop }} &amp; you</mj-preview></mj-head>
  <mj-body css-class="{{ theme | default("light") }}">
    <mj-section>
      <mj-column>
        <mj-text>Hello {{ member.name }}, {% if count > 1 and count < 9 %}they are{% else %}it is{% endif %} on the way.</mj-text>
        <mj-raw>{% for item in items %}</mj-raw>
        <mj-button href="https://shop.example/?a={{ item.id }}&amp;b=1">{{ item.name }}</mj-button>
        <mj-raw>{% endfor %}</mj-raw>
        <mj-text>{# nobody sees this "<" #}Grüße</mj-text>
      </mj-column>
    </mj-section>
  </mj-body>
</mjml>"#;

    #[test]
    fn templates_survive_in_text_and_attributes() {
        let html = mjml_to_html(ORDER).unwrap();
        assert!(html.starts_with("<!doctype html>") && !html.contains("mjtag") && !html.contains("<mj-"), "{html}");
        for tag in [
            "{{ theme | default(\"light\") }}",
            "{% if count > 1 and count < 9 %}",
            "{% endfor %}",
            "a={{ item.id }}&amp;b=1",
        ] {
            assert!(html.contains(tag), "{tag}: {html}");
        }
        let mut engine = Environment::new();
        engine.add_template("order.html", &html).unwrap();
        let items = vec![context! {id => 1, name => "<one>"}, context! {id => 2, name => "two"}];
        let page = engine.get_template("order.html").unwrap();
        let page =
            page.render(context! {shop => "A & B", member => context! {name => "Jané"}, count => 2, items}).unwrap();
        assert!(page.contains("Hello Jané, they are on the way."), "{page}");
        assert!(page.contains("&lt;one&gt;") && page.contains("?a=2&amp;b=1") && page.contains("Grüße"), "{page}");
        assert!(page.contains("<title>A &amp; B</title>") && page.contains("light"), "{page}");
        assert!(!page.contains("nobody sees this"), "{page}");
    }

    #[test]
    fn a_loop_may_stand_between_elements() {
        let text = "<mjml><mj-body>{% for a in b %}<mj-section>{% if a %}<mj-column>{% if c %}<mj-text>{{ a }}</mj-text>\
            {% endif %}</mj-column>{% endif %}</mj-section>{% endfor %}</mj-body></mjml>";
        let html = mjml_to_html(text).unwrap();
        let page = Environment::new().render_str(&html, context! {b => ["one", "", "two"], c => true}).unwrap();
        assert_eq!((page.matches(">one<").count(), page.matches(">two<").count()), (1, 1), "{page}");
    }

    #[test]
    fn nothing_is_fetched_from_a_third_party() {
        let html = mjml_to_html("<mjml><mj-body><mj-section><mj-column><mj-text font-family=\"Roboto\">x</mj-text></mj-column></mj-section></mj-body></mjml>").unwrap();
        assert!(!html.contains("fonts.googleapis"), "{html}");
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        for (text, line, column, words) in [
            ("", 1, 1, "is no MJML"),
            ("<p>x</p>", 1, 1, ""),
            ("<mjml>\n<mj-body>\n  <mj-nonsense /></mj-body></mjml>", 3, 3, "no element `mj-nonsense`"),
            ("<mjml>{{ a }}<mj-body></mj-body></mjml>", 1, 7, "mj-raw"),
            ("<mjml><mj-body>{{ a </mj-body></mjml>", 1, 16, "not closed by `}}`"),
            ("<mjml><mj-body><mj-section>", 1, 28, "ends too early"),
            (
                "<mjml><mj-head></mj-head><mj-body><mj-include path=\"/etc/passwd\" /></mj-body></mjml>",
                1,
                36,
                "nothing is included",
            ),
        ] {
            let error = mjml_to_html(text).unwrap_err();
            assert!(error.problem.contains(words), "{text}: {error}");
            assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        }
        let deep = format!("<mjml><mj-body><mj-raw>{}", "<div>".repeat(100_000));
        assert!(mjml_to_html(&deep).unwrap_err().problem.contains("nested deeper"));
    }

    #[test]
    fn a_tag_that_would_be_lost_is_named() {
        let text = "<mjml><mj-body><mj-section><mj-column><mj-image src=\"a\" nonsense=\"{% if a %}\" /></mj-column></mj-section></mj-body></mjml>";
        let error = mjml_to_html(text).unwrap_err();
        assert!(error.problem.contains("lost") && error.column == text.find("{%").unwrap() + 1, "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_us_panic(text in any::<String>(), like in "(<(mjml|mj-body|mj-section|mj-column|mj-text|mj-raw|br|/mjml|/mj-body|/mj-text)( a=\"[a-z{}%]{0,5}\")?/?>|\\{\\{|\\}\\}|\\{%|%\\}|[a-zä\n ]){0,40}") {
            mjml_to_html(&text).ok();
            mjml_to_html(&like).ok();
            mjml_to_html(&format!("<mjml><mj-body><mj-section><mj-column><mj-text>{text}</mj-text></mj-column></mj-section></mj-body></mjml>")).ok();
        }

        #[test]
        fn every_expression_is_there_afterwards(tags in prop::collection::vec("\\{\\{ [a-z<>\"&' ]{0,12} \\}\\}", 0..12)) {
            let text = format!("<mjml><mj-body><mj-section><mj-column><mj-text>{}</mj-text></mj-column></mj-section></mj-body></mjml>", tags.join(" and "));
            let html = mjml_to_html(&text).unwrap();
            for tag in tags {
                prop_assert!(html.contains(&tag), "{tag}: {html}");
            }
        }
    }
}
