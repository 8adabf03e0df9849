//! `bellwether preview [DIR]`: what templates would say, all variants side by side, on the terminal or as a page.
//! A client of the HTTP API; a folder that is not published is sent along.

use super::{Connection, print, print_json};
use crate::{
    definitions::document,
    http::preview::{Preview as Answer, PreviewRequest, TemplatePreview, VariantPreview},
};
use anyhow::{Context, bail};
use bellwether_schemas::Channel;
use reqwest::Method;
use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf};

/// Show what templates would say, every variant beside the others.
#[derive(clap::Args, Clone, Debug)]
pub struct Preview {
    /// Folder of definitions that are not published; absent: what is published.
    pub dir: Option<PathBuf>,
    /// This template alone.
    #[arg(long)]
    pub template: Option<String>,
    /// On this occasion alone: the name of a declared event.
    #[arg(long)]
    pub event: Option<String>,
    /// With this sample alone.
    #[arg(long)]
    pub sample: Option<String>,
    /// File with the data of an event, JSON, in the place of the samples'.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// For this member instead of the samples': client_user_id.
    #[arg(long)]
    pub member: Option<String>,
    /// Write a page for a browser to this file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Where the definitions and members are.
    #[command(flatten)]
    pub connection: Connection,
}

impl Preview {
    /// Runs the command.
    ///
    /// # Errors
    /// A file cannot be read or written, or the API refuses or does not answer.
    pub async fn run(self) -> anyhow::Result<()> {
        let answer: Answer =
            self.connection.client()?.send_json(Method::POST, "/v1/templates/preview", &self.request()?).await?;
        if let Some(file) = &self.html {
            std::fs::write(file, page(&answer)).with_context(|| format!("cannot write {}", file.display()))?;
            return print(&format!("wrote {}", file.display()));
        }
        if self.connection.json { print_json(&answer) } else { print(&text(&answer)) }
    }

    fn request(&self) -> anyhow::Result<PreviewRequest> {
        let definitions = match &self.dir {
            None => None,
            Some(dir) => match document(dir, &|name| std::env::var(name).ok()) {
                Ok(document) => Some(document),
                Err(errors) => {
                    let list: String = errors.iter().map(|error| format!("{error}\n")).collect();
                    bail!("{list}{} to correct in {}", errors.len(), dir.display());
                }
            },
        };
        let data = self.data.as_ref().map(|file| {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))
        });
        Ok(PreviewRequest {
            template: self.template.clone(),
            event: self.event.clone(),
            sample: self.sample.clone(),
            data: data.transpose()?,
            member: self.member.clone(),
            definitions,
        })
    }
}

/// What a preview is of: `order_placed with sample usual of event order_placed`.
fn title(shown: &TemplatePreview) -> String {
    let of = shown.event.as_ref().map(|event| format!(" of event {event}")).unwrap_or_default();
    let member = shown.member.as_ref().map(|id| format!(", for member {id}")).unwrap_or_default();
    format!("{} with sample {}{of}{member}", shown.template, shown.sample)
}

/// The texts of a message that a member reads, by field.
fn fields(variant: &VariantPreview) -> Vec<(String, String)> {
    let Some(message) = &variant.message else { return Vec::new() };
    let mut message = message.clone();
    let mut all: Vec<(String, String)> =
        message.texts_mut().into_iter().map(|(place, text)| (place.to_string(), text.clone())).collect();
    all.extend(variant.derived_text.iter().map(|text| ("text, made of the HTML".to_owned(), text.clone())));
    all
}

fn text(answer: &Answer) -> String {
    let mut out = String::new();
    for finding in &answer.findings {
        out += &format!("{}: {}; {}\n", finding.field, finding.problem, finding.remedy);
    }
    for shown in &answer.previews {
        out += &format!("\n# {}\n", title(shown));
        for variant in &shown.variants {
            out += &format!("\n## {} {}\n", variant.channel, variant.locale);
            for (field, text) in fields(variant) {
                out += &match text.trim_end().contains('\n') {
                    true => format!(
                        "{field}:\n{}\n",
                        text.trim_end().lines().map(|line| format!("  {line}\n")).collect::<String>().trim_end()
                    ),
                    false => format!("{field}: {}\n", text.trim_end()),
                };
            }
            for size in &variant.sizes {
                let beyond = if size.exceeded { ", which is too much" } else { "" };
                out += &format!("{}: {} of {} {}{beyond}\n", size.what, size.size, size.limit, size.unit);
            }
            out += &variant.segments.map(|segments| format!("{segments}\n")).unwrap_or_default();
            for error in &variant.errors {
                out += &format!("error: {error}\n");
            }
        }
    }
    out
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem;background:#f4f2ee;color:#222}\
h1{font-size:1.4rem}h2{font-size:1.15rem;margin:2.5rem 0 .5rem}h3{font-size:.95rem;margin:1.2rem 0 .4rem;color:#555}\
.row{display:flex;gap:1rem;overflow-x:auto;align-items:flex-start;padding-bottom:.5rem}\
article{flex:1 0 22rem;max-width:44rem;background:#fff;border:1px solid #ddd;border-radius:.6rem;padding:1rem;color:#222}\
article>header{font-weight:600;margin-bottom:.5rem}\
iframe{width:100%;height:30rem;border:1px solid #ddd;border-radius:.3rem;background:#fff}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;padding:.6rem .8rem;background:#eef3ee;border-radius:.6rem;font:inherit}\
dt{font-size:.8rem;color:#666;margin-top:.6rem}dd{margin:0}\
.sizes{font-size:.8rem;color:#555;margin:.8rem 0 0;padding:0;list-style:none}\
.beyond,.error{color:#a40000;font-weight:600}";

/// A page that needs no script and fetches nothing but the mail's own pictures. What is rendered is shown in frames that may do nothing.
fn page(answer: &Answer) -> String {
    let mut body = String::new();
    let of = if answer.version == 0 { "not published".to_owned() } else { format!("version {}", answer.version) };
    put(&mut body, format_args!("<h1>Templates, {of}</h1>"));
    for finding in &answer.findings {
        let words = format!("{}: {}; {}", finding.field, finding.problem, finding.remedy);
        put(&mut body, format_args!("<p class=\"error\">{}</p>", escaped(&words)));
    }
    for shown in &answer.previews {
        put(&mut body, format_args!("<section><h2>{}</h2>", escaped(&title(shown))));
        let channels: BTreeSet<Channel> = shown.variants.iter().map(|variant| variant.channel).collect();
        for channel in channels {
            put(&mut body, format_args!("<h3>{channel}</h3><div class=\"row\">"));
            for variant in shown.variants.iter().filter(|variant| variant.channel == channel) {
                article(&mut body, variant);
            }
            body += "</div>";
        }
        body += "</section>";
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Templates</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data: https:\">\
         <style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
}

fn article(body: &mut String, variant: &VariantPreview) {
    put(body, format_args!("<article lang=\"{0}\"><header>{0}</header><dl>", escaped(&variant.locale)));
    for (field, text) in fields(variant) {
        put(body, format_args!("<dt>{}</dt><dd>", escaped(&field)));
        match (field.as_str(), variant.channel) {
            ("html", Channel::Email) => {
                put(body, format_args!("<iframe sandbox title=\"html\" srcdoc=\"{}\"></iframe>", escaped(&text)));
            }
            _ => put(body, format_args!("<pre dir=\"auto\">{}</pre>", escaped(&text))),
        }
        *body += "</dd>";
    }
    *body += "</dl>";
    for error in &variant.errors {
        put(body, format_args!("<p class=\"error\">{}</p>", escaped(error)));
    }
    *body += "<ul class=\"sizes\">";
    for size in &variant.sizes {
        let class = if size.exceeded { " class=\"beyond\"" } else { "" };
        let words = format!("{}: {} of {} {}", size.what, size.size, size.limit, size.unit);
        put(body, format_args!("<li{class}>{}</li>", escaped(&words)));
    }
    if let Some(segments) = variant.segments {
        put(body, format_args!("<li>{segments}</li>"));
    }
    *body += "</ul></article>";
}

/// Writing into a text cannot fail.
fn put(body: &mut String, what: std::fmt::Arguments<'_>) {
    body.write_fmt(what).unwrap_or_default();
}

/// Text as HTML, in attributes too.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_segments_and_errors_stand_beside_what_is_said() {
        let size = |size: u32, exceeded: bool| json!({"field": "text", "what": "the message", "size": size, "unit": "characters", "limit": 1600, "exceeded": exceeded, "source": "Twilio"});
        let answer: Answer = serde_json::from_value(json!({
            "version": 3,
            "findings": [],
            "previews": [{"template": "order", "event": "placed", "sample": "usual", "variants": [
                {"channel": "sms", "locale": "en", "message": {"text": "One\n<two>"}, "sizes": [size(9, false)],
                    "segments": {"encoding": "GSM-7", "units": 9, "segments": 1}, "errors": []},
                {"channel": "sms", "locale": "es", "sizes": [], "errors": ["unknown variable `n`"]},
            ]}],
        }))
        .unwrap();
        assert_eq!(
            text(&answer),
            "\n# order with sample usual of event placed\n\n## sms en\ntext:\n  One\n  <two>\n\
             the message: 9 of 1600 characters\n1 segment, GSM-7\n\n## sms es\nerror: unknown variable `n`\n"
        );
        let page = page(&answer);
        assert!(page.contains("&lt;two&gt;") && !page.contains("<two>"), "{page}");
        assert!(page.contains("<li>1 segment, GSM-7</li>"), "{page}");
    }
}
