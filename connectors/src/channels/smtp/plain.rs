//! The text of an HTML body, for readers that show none and filters that expect both. Pure.

use html2text::config;

/// Columns (RFC 5322 section 2.1.1 recommends no more than 78).
const WIDTH: usize = 76;

/// HTML as text: paragraphs wrapped, tables that only lay out laid out in turn, links as numbered notes at the end.
/// `None` where nothing is left.
#[must_use]
pub fn plain(html: &str) -> Option<String> {
    let config = config::plain().raw_mode(true).link_footnotes(true).no_link_wrapping().allow_width_overflow();
    let text = config.string_from_read(html.as_bytes(), WIDTH).ok()?;
    let mut out = String::with_capacity(text.len());
    for line in text.lines().map(str::trim_end) {
        // Layout leaves holes.
        if !(line.is_empty() && (out.is_empty() || out.ends_with("\n\n"))) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    (!out.is_empty()).then(|| out + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_reader_needs_is_there() {
        let html = "<html><head><title>T</title><style>p{color:red}</style></head><body><table><tr><td><h1>Your order</h1></td></tr>\
            <tr><td><p>Hello&nbsp;Jané &amp; all,</p><p>it is <a href=\"https://shop.example/o?a=1&amp;b=2\">on its way</a>.</p>\
            <ul><li>one</li><li>two</li></ul><img src=\"x.png\" alt=\"logo\"></td></tr></table></body></html>";
        insta::assert_snapshot!(plain(html).unwrap_or_default());
        assert_eq!((plain(""), plain("<p> </p>")), (None, None));
    }

    proptest! {
        #[test]
        fn no_html_makes_us_panic(html in any::<String>(), tags in "(<(p|a href=x|table|td|tr|ul|li|pre|img|/p|/a|/table)>|[a-z\\n ä]){0,40}") {
            for html in [html, tags] {
                prop_assert!(plain(&html).is_none_or(|text| text.ends_with('\n')));
            }
        }
    }
}
