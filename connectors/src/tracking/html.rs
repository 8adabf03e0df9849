//! Links in HTML that somebody else wrote: the targets of `<a href>` replaced, everything else left byte for byte as it is. Pure.
//! Knows nothing of what a link becomes.

use crate::channels::telegram::html::{Tag, decoded};

/// On a link: `off` leaves it as it is. The attribute itself is never sent.
const OPT_OUT: &str = "data-track";
/// Elements whose text is no HTML (HTML Standard, section 13.2.5): a tag in it is none.
const RAW: [&str; 5] = ["style", "script", "title", "textarea", "xmp"];

/// Replaces the target of each link for which `link` has another. What it is asked is the URL as a browser reads it.
///
/// Comments are left alone, those with conditions for Outlook too.
#[must_use]
pub fn rewrite(html: &str, mut link: impl FnMut(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::with_capacity(html.len() * 2), html);
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let length = match Tag::read(from) {
            _ if from.starts_with("<!--") => from.find("-->").map_or(from.len(), |end| end + 3),
            Some(tag) if !tag.is_end && tag.name.eq_ignore_ascii_case("a") => {
                let length = from.len() - tag.rest.len();
                match rewritten(&tag, &mut link) {
                    Some(anew) => out.push_str(&anew),
                    None => out.push_str(&from[..length]),
                }
                rest = tag.rest;
                continue;
            }
            Some(tag) if !tag.is_end => match RAW.iter().find(|raw| raw.eq_ignore_ascii_case(tag.name)) {
                Some(raw) => from.len() - tag.rest.len() + end_of(tag.rest, raw),
                None => from.len() - tag.rest.len(),
            },
            Some(tag) => from.len() - tag.rest.len(),
            None => 1,
        };
        let (as_it_is, after) = from.split_at(length);
        out.push_str(as_it_is);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Bytes of an element's raw text.
fn end_of(text: &str, name: &str) -> usize {
    let is_end = |at: &usize| {
        let after = text.as_bytes().get(at + 2..at + 2 + name.len());
        after.is_some_and(|after| after.eq_ignore_ascii_case(name.as_bytes()))
    };
    text.match_indices("</").map(|(at, _)| at).find(is_end).unwrap_or(text.len())
}

/// The tag as it is to be sent, if otherwise than it stands there.
fn rewritten(tag: &Tag<'_>, link: &mut impl FnMut(&str) -> Option<String>) -> Option<String> {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let opted = tag.attributes.iter().any(|(name, _)| is(name, OPT_OUT));
    let opted_out = tag.attributes.iter().any(|(name, value)| is(name, OPT_OUT) && value.eq_ignore_ascii_case("off"));
    let href = tag.attributes.iter().position(|(name, _)| is(name, "href"));
    let target = href.map(|at| decoded(tag.attributes[at].1)).filter(|_| !opted_out);
    let target = target.and_then(|target| link(target.trim()));
    if target.is_none() && !opted {
        return None;
    }
    let mut out = format!("<{}", tag.name);
    for (at, (name, value)) in tag.attributes.iter().enumerate().filter(|(_, (name, _))| !is(name, OPT_OUT)) {
        let value = match &target {
            Some(target) if Some(at) == href => target.replace('&', "&amp;"),
            _ => (*value).to_owned(),
        };
        out.push_str(&format!(" {name}=\"{}\"", value.replace('"', "&quot;")));
    }
    Some(out + ">")
}

/// Puts a picture that nobody sees where the body ends.
#[must_use]
pub fn with_pixel(html: &str, url: &str) -> String {
    let url = url.replace('&', "&amp;").replace('"', "&quot;");
    let pixel = format!(r#"<img src="{url}" alt="" width="1" height="1" style="display:block;border:0">"#);
    let end = html
        .match_indices("</")
        .map(|(at, _)| at)
        .filter(|at| html.as_bytes().get(at + 2..at + 6).is_some_and(|name| name.eq_ignore_ascii_case(b"body")));
    let (before, after) = html.split_at(end.last().unwrap_or(html.len()));
    format!("{before}{pixel}{after}")
}

/// Replaces each web address of plain text for which `link` has another. It ends where white space does, without the punctuation of
/// the sentence around it.
#[must_use]
pub fn rewrite_text(text: &str, mut link: impl FnMut(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = ["https://", "http://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
        let (before, from) = rest.split_at(at);
        let word = from.split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"')).next().unwrap_or_default();
        let url = word.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '\'', '»', '”']);
        out.push_str(before);
        out.push_str(&link(url).unwrap_or_else(|| url.to_owned()));
        rest = &from[url.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every `https:` link becomes one that shows what it was.
    fn track(url: &str) -> Option<String> {
        url.starts_with("https:").then(|| format!("T({url})"))
    }

    #[test]
    fn links_are_rewritten_and_nothing_else_is() {
        for (html, expected) in [
            (r#"<p>Hi <a href="https://a.example">x</a></p>"#, r#"<p>Hi <a href="T(https://a.example)">x</a></p>"#),
            (
                r#"<A class='b' HREF = 'https://a.example/?x=1&amp;y="2"' target=_blank>x</A>"#,
                r#"<A class="b" HREF="T(https://a.example/?x=1&amp;y=&quot;2&quot;)" target="_blank">x</A>"#,
            ),
            (r#"<a href="https://a.example/?x=1&y=2">x</a>"#, r#"<a href="T(https://a.example/?x=1&amp;y=2)">x</a>"#),
            (
                r#"<a title='say "hi"' href=" https://a.example ">x</a>"#,
                r#"<a title="say &quot;hi&quot;" href="T(https://a.example)">x</a>"#,
            ),
            (
                r#"<a href="https://a.example" data-track="off" id=b>x</a>"#,
                r#"<a href="https://a.example" id="b">x</a>"#,
            ),
            (r#"<a href="https://a.example" data-track>x</a>"#, r#"<a href="T(https://a.example)">x</a>"#),
            (r#"<a href="mailto:a@b.example" data-track=off>x</a>"#, r#"<a href="mailto:a@b.example">x</a>"#),
        ] {
            assert_eq!(rewrite(html, track), expected, "{html}");
        }
        for html in [
            "",
            "5 < 6 & 7 > 2, a<b",
            r##"<a href='mailto:a@b.example'>m</a><a href="tel:1">t</a><a href="#top">u</a><a name=x>v</a>"##,
            r#"<img src="https://a.example/i.png"><link href="https://a.example/s.css"><area href="https://a.example">"#,
            r#"<!--[if mso]><a href="https://a.example">x</a><![endif]--><abbr href="https://a.example">"#,
            r#"<style>a[href="https://a.example"] > b { }</style><title><a href="https://a.example"></title>"#,
            r#"<script>document.write('<a href="https://a.example">')</script>"#,
            r#"<a href="https://a.example"#,
            "<!-- never closed <a href='https://a.example'>",
        ] {
            assert_eq!(rewrite(html, track), html);
        }
    }

    #[test]
    fn the_picture_goes_where_the_body_ends() {
        let pixel = r#"<img src="https://l.example/o" alt="" width="1" height="1" style="display:block;border:0">"#;
        for (before, after) in
            [("<html><body><p>x</p>", "</body></html>"), ("<p>x", ""), ("<body>a</body>b", "</BODY>"), ("ü", "")]
        {
            assert_eq!(
                with_pixel(&format!("{before}{after}"), "https://l.example/o"),
                format!("{before}{pixel}{after}")
            );
        }
    }

    #[test]
    fn addresses_in_text_end_before_the_sentence_does() {
        for (text, expected) in [
            (
                "See https://a.example/x?y=1, or (https://b.example/).",
                "See T(https://a.example/x?y=1), or (T(https://b.example/)).",
            ),
            ("https://a.example\nhttp://b.example", "T(https://a.example)\nhttp://b.example"),
            ("https://", "https://"),
            ("no link, http: nor https:", "no link, http: nor https:"),
        ] {
            assert_eq!(rewrite_text(text, |url| track(url).filter(|_| url.len() > 8)), expected);
        }
    }

    proptest! {
        #[test]
        fn what_has_nothing_to_rewrite_stays_byte_for_byte(html in any::<String>(), tags in "(<[a-z!/-]{0,4}[ =\"'a-z>]{0,9}|[&;x<>-]){0,20}") {
            for html in [html, tags] {
                let html = html.replace(OPT_OUT, "");
                prop_assert_eq!(&rewrite(&html, |_| None), &html);
                prop_assert_eq!(&rewrite_text(&html, |_| None), &html);
                prop_assert_eq!(with_pixel(&html, "u").len(), html.len() + with_pixel("", "u").len());
            }
        }

        #[test]
        fn a_rewritten_link_reads_as_what_was_asked(url in "https://a\\.example/[ -~]{0,40}") {
            let escaped = url.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
            let mut seen = Vec::new();
            let html = rewrite(&format!("<a href=\"{escaped}\">x</a>"), |target| { seen.push(target.to_owned()); Some(target.into()) });
            prop_assert_eq!(&seen, &[url.trim_end()]);
            drop(rewrite(&html, |target| { seen.push(target.to_owned()); None }));
            prop_assert_eq!(&seen[0], &seen[1]);
        }
    }
}
