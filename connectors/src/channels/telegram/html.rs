//! The HTML that Telegram understands: what it does not is escaped, what is too long is cut, and what comes out is always balanced.
//! Pure. Source: <https://core.telegram.org/bots/api#html-style>.

/// Tags without attributes.
const PLAIN: [&str; 11] = ["b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "pre", "tg-spoiler"];
/// Tags that mean something by an attribute.
const OTHERS: [&str; 4] = ["a", "span", "code", "blockquote"];

/// Longest entity that we look for: `&#x10FFFF;`, and some zeros.
const MAX_ENTITY: usize = 12;

/// `html` as Telegram takes it: its tags kept and balanced, every other one shown as it is written, and no more than `limit` units of
/// text. What is too long ends with `…`, cut between characters, with every open tag closed. A tag of Telegram's that means nothing (a
/// link without a target, an end without a beginning) is left out. What this returns it returns unchanged.
#[must_use]
pub fn fit(html: &str, limit: usize) -> String {
    let budget = if length(html) <= limit { usize::MAX } else { limit.saturating_sub(1) };
    let (mut out, mut open, mut used) = (String::with_capacity(html.len()), Vec::new(), 0);
    for piece in Pieces(html) {
        match piece {
            Piece::Text(c) => {
                used += c.len_utf16();
                if used > budget {
                    out.truncate(out.trim_end().len());
                    out.push('…');
                    break;
                }
                escape(c, &mut out);
            }
            Piece::Open(name, tag) => {
                open.push(name);
                out.push_str(&tag);
            }
            Piece::Close(name) => {
                // Tags that overlap are closed together, innermost first.
                if let Some(at) = open.iter().rposition(|one| *one == name) {
                    open.drain(at..).rev().for_each(|name| close(name, &mut out));
                }
            }
        }
    }
    open.iter().rev().for_each(|name| close(name, &mut out));
    out
}

/// The length of the text as Telegram counts it: UTF-16 units after its tags and entities are read.
#[must_use]
pub fn length(html: &str) -> usize {
    Pieces(html).map(|piece| if let Piece::Text(c) = piece { c.len_utf16() } else { 0 }).sum()
}

/// The text alone.
#[must_use]
pub fn text(html: &str) -> String {
    Pieces(html).filter_map(|piece| if let Piece::Text(c) = piece { Some(c) } else { None }).collect()
}

fn close(name: &str, out: &mut String) {
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

fn escape(c: char, out: &mut String) {
    match c {
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '&' => out.push_str("&amp;"),
        _ => out.push(c),
    }
}

enum Piece {
    /// A character as it is shown.
    Text(char),
    /// A tag: its name, and all of it as we write it.
    Open(&'static str, String),
    Close(&'static str),
}

/// What is left of a text, piece by piece.
struct Pieces<'a>(&'a str);

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let first = self.0.chars().next()?;
            if first == '<'
                && let Some(tag) = Tag::read(self.0)
                && let Some(name) = tag.known()
            {
                self.0 = tag.rest;
                if tag.is_end {
                    return Some(Piece::Close(name));
                }
                match tag.opening(name) {
                    Some(opening) => return Some(Piece::Open(name, opening)),
                    None => continue,
                }
            }
            let (shown, rest) = character(self.0, first);
            self.0 = rest;
            return Some(Piece::Text(shown));
        }
    }
}

/// The character at the beginning, an entity read as what it stands for.
fn character(text: &str, first: char) -> (char, &str) {
    let plain = (first, text.get(first.len_utf8()..).unwrap_or_default());
    let Some((name, rest)) = text.strip_prefix('&').and_then(entity) else { return plain };
    let shown = match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => name.strip_prefix('#').and_then(numbered),
    };
    shown.map_or(plain, |shown| (shown, rest))
}

/// The name of an entity and what follows it. Looking no further than any name reaches keeps a text of `&` alone cheap.
fn entity(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().take(MAX_ENTITY).position(|b| b == b';')?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

fn numbered(number: &str) -> Option<char> {
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    char::from_u32(code.ok()?).filter(|c| !c.is_control() || *c == '\n')
}

/// Text with its entities read.
pub(crate) fn decoded(mut text: &str) -> String {
    let mut out = String::new();
    while let Some(first) = text.chars().next() {
        let (shown, rest) = character(text, first);
        out.push(shown);
        text = rest;
    }
    out
}

/// A tag as it is written.
pub(crate) struct Tag<'a> {
    pub(crate) is_end: bool,
    pub(crate) name: &'a str,
    /// Names and values, these with their entities.
    pub(crate) attributes: Vec<(&'a str, &'a str)>,
    /// What follows it.
    pub(crate) rest: &'a str,
}

impl<'a> Tag<'a> {
    /// The tag at the beginning of `text`, if there is a whole one.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix('<')?;
        let (is_end, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
        let (name, mut rest) = split(rest, |c| c.is_ascii_alphanumeric() || c == '-');
        let mut attributes = Vec::new();
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
            if let Some(rest) = rest.strip_prefix('>') {
                return Some(Self { is_end, name, attributes, rest });
            }
            let (attribute, after) = split(rest, |c| !c.is_whitespace() && !"=<>/\"'".contains(c));
            if attribute.is_empty() {
                return None;
            }
            let is_given = after.trim_start().strip_prefix('=');
            let (value, after) = is_given.map_or(Some(("", after)), |given| value(given.trim_start()))?;
            attributes.push((attribute, value));
            rest = after;
        }
    }

    fn known(&self) -> Option<&'static str> {
        PLAIN.into_iter().chain(OTHERS).find(|known| known.eq_ignore_ascii_case(self.name))
    }

    fn attribute(&self, name: &str) -> Option<String> {
        let found = self.attributes.iter().find(|(attribute, _)| attribute.eq_ignore_ascii_case(name));
        found.map(|(_, value)| decoded(value))
    }

    /// The tag as we write it, if it means something.
    fn opening(&self, name: &'static str) -> Option<String> {
        let with = |attribute: &str, value: &str| {
            let mut out = format!("<{name} {attribute}=\"");
            for c in value.chars() {
                if c == '"' { out.push_str("&quot;") } else { escape(c, &mut out) }
            }
            out + "\">"
        };
        match name {
            "a" => self.attribute("href").filter(|href| !href.trim().is_empty()).map(|href| with("href", &href)),
            "span" => self.attribute("class").filter(|class| class == "tg-spoiler").map(|class| with("class", &class)),
            "code" => Some(match self.attribute("class").filter(|class| class.starts_with("language-")) {
                Some(class) => with("class", &class),
                None => "<code>".into(),
            }),
            "blockquote" if self.attribute("expandable").is_some() => Some("<blockquote expandable>".into()),
            _ => Some(format!("<{name}>")),
        }
    }
}

/// The value of an attribute, with or without quotes, and what follows it.
fn value(text: &str) -> Option<(&str, &str)> {
    match text.chars().next()? {
        quote @ ('"' | '\'') => text.get(1..)?.split_once(quote),
        _ => Some(split(text, |c| !c.is_whitespace() && c != '>')),
    }
}

/// The longest beginning of such characters, and the rest.
fn split(text: &str, is_part: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn telegrams_tags_stay_and_every_other_is_shown() {
        for (html, expected) in [
            ("Hi <b>you</b>\n<I>x</I>", "Hi <b>you</b>\n<i>x</i>"),
            (
                "<a href='https://h.example/?a=1&amp;b=\"2\"'>x</a>",
                "<a href=\"https://h.example/?a=1&amp;b=&quot;2&quot;\">x</a>",
            ),
            ("<a href=tg://user?id=1 target=_blank>x</a>", "<a href=\"tg://user?id=1\">x</a>"),
            (
                "<span class=\"tg-spoiler\">x</span><tg-spoiler>y</tg-spoiler>",
                "<span class=\"tg-spoiler\">x</span><tg-spoiler>y</tg-spoiler>",
            ),
            (
                "<pre><code class=\"language-rust\">a &lt; b</code></pre>",
                "<pre><code class=\"language-rust\">a &lt; b</code></pre>",
            ),
            ("<blockquote expandable>x</blockquote>", "<blockquote expandable>x</blockquote>"),
            ("<b onclick=\"x()\">x</b>", "<b>x</b>"),
            ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
            ("<p>x<br/></p>", "&lt;p&gt;x&lt;br/&gt;&lt;/p&gt;"),
            ("1 < 2 && 3 > 2 &copy; &#x27;&#39;&quot;&nbsp;", "1 &lt; 2 &amp;&amp; 3 &gt; 2 &amp;copy; ''\"\u{a0}"),
            ("&amp;lt;b&amp;gt;", "&amp;lt;b&amp;gt;"),
            ("<b>x", "<b>x</b>"),
            ("x</b>", "x"),
            ("<b><i>x</b>y</i>", "<b><i>x</i></b>y"),
            ("<a>x</a><a href=''>y</a><span class=big>z</span>", "xyz"),
            ("<b", "&lt;b"),
            ("<a href=\"x", "&lt;a href=\"x"),
            ("<>", "&lt;&gt;"),
            ("&#0;&#xD800;&#99999999999;", "&amp;#0;&amp;#xD800;&amp;#99999999999;"),
        ] {
            assert_eq!(fit(html, 4096), expected, "{html}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_at_whole_characters() {
        for (html, limit, expected) in [
            ("<b>Hello</b>", 5, "<b>Hello</b>"),
            ("<b>Hello!</b>", 5, "<b>Hell…</b>"),
            ("<b>He<i>llo!</i></b> you", 5, "<b>He<i>ll…</i></b>"),
            ("Hello <b>you</b>", 8, "Hello <b>y…</b>"),
            ("Hello   <b>you</b>", 8, "Hello…"),
            ("a&amp;b&amp;c", 4, "a&amp;b…"),
            // An emoji is two units, and half of it is none.
            ("🚀🚀🚀", 4, "🚀…"),
            ("🚀🚀🚀", 6, "🚀🚀🚀"),
            ("xyz", 1, "…"),
        ] {
            assert_eq!(fit(html, limit), expected, "{html} {limit}");
        }
        assert_eq!((length("<b>🚀&amp;</b>ö"), text("<b>&lt;x&gt;</b>")), (4, "<x>".to_owned()));
    }

    /// Whether every tag is one of ours, properly nested, and every `&` begins one of the entities that Telegram reads.
    fn is_sound(html: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = html;
        while let Some(at) = rest.find(['<', '>', '&']) {
            rest = &rest[at..];
            if rest.starts_with('&') {
                if !["&lt;", "&gt;", "&amp;", "&quot;"].iter().any(|entity| rest.starts_with(entity)) {
                    return false;
                }
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.find('>').filter(|_| rest.starts_with('<')) else { return false };
            let tag = &rest[1..end];
            match tag.strip_prefix('/') {
                Some(name) if open.pop() != Some(name) => return false,
                Some(_) => {}
                None => open.push(tag.split(' ').next().unwrap()),
            }
            rest = &rest[end + 1..];
        }
        open.is_empty()
    }

    proptest! {
        #[test]
        fn whatever_comes_in_what_goes_out_is_short_balanced_and_whole(
            parts in prop::collection::vec(prop_oneof![
                any::<String>(), "[ <>&;/a-z\"'=#]{0,12}", "</?(b|i|a|code|div|span)>",
                Just("<a href=\"h&amp;\">".to_owned()), Just("<span class='tg-spoiler'>".to_owned()),
                Just("&amp;".to_owned()), Just("&#x1F680;".to_owned()), Just("🚀 ".to_owned()),
            ], 0..30),
            limit in 1_usize..60,
        ) {
            let html = parts.concat();
            let out = fit(&html, limit);
            prop_assert!(is_sound(&out), "{html:?} became {out:?}");
            prop_assert!(length(&out) <= limit, "{} of {limit}", length(&out));
            prop_assert_eq!(&fit(&out, limit), &out);
            if length(&html) <= limit {
                prop_assert_eq!(text(&out), text(&html));
            } else {
                prop_assert!(text(&out).ends_with('…'));
                let kept = text(&out);
                prop_assert!(text(&html).starts_with(kept.trim_end_matches('…')) );
            }
        }
    }
}
