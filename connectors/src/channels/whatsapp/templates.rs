//! The templates of a WhatsApp Business Account as Meta lists them, and whether what we would send fits one. Pure.
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/reference/whatsapp-business-account/message-template-api>.

use super::media_name;
use bellwether_schemas::definitions::{MediaKind, Variant};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// What we ask of each template.
pub(super) const FIELDS: &str =
    "name,language,status,category,parameter_format,components,quality_score,rejected_reason";

/// A template at Meta, as far as it must be known to send it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovedTemplate {
    /// Name.
    pub name: String,
    /// Language code, such as `es_AR`.
    pub language: String,
    /// Meta's status: `APPROVED`, `PENDING`, `REJECTED`, `PAUSED`, `DISABLED`, …
    pub status: String,
    /// Why it was rejected or paused, in Meta's word.
    pub rejected_reason: Option<String>,
    /// What members make of it: `GREEN`, `YELLOW`, `RED`, and nothing while nobody has said.
    pub quality: Option<String>,
    /// `MARKETING`, `UTILITY` or `AUTHENTICATION`.
    pub category: String,
    /// Its placeholders have names. Ours are numbered, so it cannot be sent from here.
    pub named: bool,
    /// What stands above the body.
    pub header: Option<TemplateHeader>,
    /// The body, with its placeholders.
    pub body: String,
    /// Placeholders of the body.
    pub parameters: usize,
    /// Buttons in order.
    pub buttons: Vec<TemplateButton>,
}

/// See [`ApprovedTemplate::header`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateHeader {
    /// A line of text, with so many placeholders.
    Text(usize),
    /// A picture, film or document, by its URL when it is sent.
    Media(MediaKind),
    /// What we cannot send, by Meta's name of it (a location).
    Other(String),
}

/// A button of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateButton {
    /// Meta's name of its type: `URL`, `QUICK_REPLY`, `PHONE_NUMBER`, …
    pub kind: String,
    /// What it says.
    pub text: String,
    /// Placeholders of its URL.
    pub parameters: usize,
}

impl ApprovedTemplate {
    /// Whether it may be sent today.
    #[must_use]
    pub fn is_approved(&self) -> bool {
        self.status == "APPROVED"
    }

    /// All that is wrong with a variant by this template; nothing if it can be sent.
    #[must_use]
    pub fn misfits(&self, variant: &Variant) -> Vec<Misfit> {
        let (name, mut found) = (format!("`{}` ({})", self.name, self.language), Vec::new());
        let mut add = |field: String, problem: String, remedy: &str| {
            found.push(Misfit { field, problem, remedy: remedy.to_owned() });
        };
        let (parameters, buttons) =
            variant.template.as_ref().map_or((0, &[][..]), |t| (t.parameters.len(), &t.buttons));
        if !self.is_approved() {
            let reason = self.rejected_reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let problem = format!("Meta has the template {name} as {}{reason}, not APPROVED", self.status);
            add("template.name".into(), problem, "wait for the approval, mend the template at Meta, or name another");
        }
        if self.named {
            let remedy = "number them at Meta ({{1}}, {{2}}, …)";
            add("template.name".into(), format!("the template {name} has placeholders with names"), remedy);
        } else if self.parameters != parameters {
            let problem =
                format!("{parameters} are given, and the body of {name} has {} placeholders", self.parameters);
            add("template.parameters".into(), problem, "give a value for each, in order");
        }
        let given = variant.header.as_ref().map(|media| media_name(media.kind));
        match &self.header {
            Some(TemplateHeader::Media(kind)) if given != Some(media_name(*kind)) => {
                let problem =
                    format!("the header is {}, and {name} wants {}", given.unwrap_or("none"), media_name(*kind));
                add("header".into(), problem, "give the kind of media that was approved, by its URL");
            }
            Some(TemplateHeader::Text(1..) | TemplateHeader::Other(_)) => {
                let problem = format!("the header of {name} cannot be filled from here");
                add(
                    "template.name".into(),
                    problem,
                    "have one approved with media, plain text or nothing above the body",
                );
            }
            Some(TemplateHeader::Text(0)) | None if given.is_some() => {
                let problem = format!("a header is given, and {name} has none for media");
                add("header".into(), problem, "remove `header`");
            }
            _ => {}
        }
        for n in 0..self.buttons.len().max(buttons.len()) {
            let needs = self.buttons.get(n).is_some_and(|button| button.parameters > 0);
            let has = buttons.get(n).is_some_and(Option::is_some);
            if needs != has {
                let verb = if needs { "needs a value" } else { "takes no value" };
                let problem = format!("button {} of {name} {verb}", n + 1);
                add(
                    format!("template.buttons.{n}"),
                    problem,
                    "give a value for each URL button with a placeholder, null for others",
                );
            }
        }
        found
    }
}

/// Why a variant cannot be sent by a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The field of the variant.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Value>,
    paging: Option<Paging>,
}

#[derive(Deserialize)]
struct Paging {
    cursors: Option<Cursors>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Cursors {
    after: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Template {
    name: String,
    language: String,
    status: String,
    category: String,
    #[serde(default)]
    parameter_format: Option<String>,
    #[serde(default)]
    rejected_reason: Option<String>,
    #[serde(default)]
    quality_score: Value,
    #[serde(default)]
    components: Vec<Value>,
}

/// Reads a page: templates, and the cursor of the next one. One that does not read (a kind that Meta has added) is left out.
pub(super) fn page(body: &[u8]) -> Option<(Vec<ApprovedTemplate>, Option<String>)> {
    let Page { data, paging } = serde_json::from_slice(body).ok()?;
    let found = data.into_iter().filter_map(|one| serde_json::from_value(one).ok()).map(approved).collect();
    // The last page has cursors too, but no `next`.
    let after = paging.filter(|paging| paging.next.is_some()).and_then(|paging| paging.cursors).and_then(|c| c.after);
    Some((found, after))
}

pub(super) fn approved(template: Template) -> ApprovedTemplate {
    let Template { name, language, status, category, parameter_format, rejected_reason, quality_score, components } =
        template;
    // Meta's words for nothing.
    let said = |word: &String| !matches!(word.as_str(), "" | "NONE" | "UNKNOWN");
    let named = parameter_format.as_deref() == Some("NAMED");
    let mut out = ApprovedTemplate {
        name,
        language,
        status,
        rejected_reason: rejected_reason.filter(said),
        quality: quality_score["score"].as_str().map(str::to_owned).filter(said),
        category,
        named,
        header: None,
        body: String::new(),
        parameters: 0,
        buttons: Vec::new(),
    };
    for component in components {
        let word = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        match component["type"].as_str().unwrap_or_default() {
            "HEADER" => {
                out.header = Some(match word(&component, "format").as_str() {
                    "TEXT" => TemplateHeader::Text(placeholders(&word(&component, "text"))),
                    "IMAGE" => TemplateHeader::Media(MediaKind::Image),
                    "VIDEO" => TemplateHeader::Media(MediaKind::Video),
                    "DOCUMENT" => TemplateHeader::Media(MediaKind::Document),
                    other => TemplateHeader::Other(other.to_owned()),
                });
            }
            "BODY" => {
                out.body = word(&component, "text");
                out.parameters = placeholders(&out.body);
            }
            "BUTTONS" => {
                out.buttons.extend(component["buttons"].as_array().into_iter().flatten().map(|button| {
                    TemplateButton {
                        kind: word(button, "type"),
                        text: word(button, "text"),
                        parameters: placeholders(&word(button, "url")),
                    }
                }));
            }
            _ => {}
        }
    }
    out
}

/// Different `{{…}}` in a text.
fn placeholders(text: &str) -> usize {
    let names = text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name.trim());
    names.collect::<BTreeSet<_>>().len()
}
