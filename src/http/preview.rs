//! `POST /v1/templates/preview`: what templates would say, every variant beside the others, with samples or for a real member.
//! Renders published definitions, or such as are sent along; it sends nothing and keeps nothing.

use super::{
    Shared,
    auth::{Caller, Scope},
    definitions::Finding,
    problem::{FieldError, Problem, ProblemDocument},
    profile,
};
use axum::{Json, body::Body, extract::State, http::HeaderMap};
use bellwether_connectors::channels::smtp::plain;
use bellwether_processors::{
    content::{EventAttributes, Previewed, context, limits::Measure},
    definitions::Compiled,
};
use bellwether_schemas::{
    Channel,
    definitions::{Definitions, Variant},
    member::Profile,
    segments::{Segments, segments},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// Most variants of one answer.
const MAX_VARIANTS: usize = 500;

/// What to look at. With nothing at all: every template with each of its samples.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"template": "order_placed", "member": "anna"}))]
pub struct PreviewRequest {
    /// This template alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// On this occasion alone: the name of a declared event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// With this sample alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// Data of an event in the place of the samples'.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// `client_user_id` of a member in the place of the samples'; needs the scope `members` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Definitions that are not published; absent: the published ones.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definitions: Option<Definitions>,
}

/// Templates as they would be sent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"version": 4, "findings": [], "previews": [{"template": "order_placed", "sample": "sample", "member": "anna", "variants": [
    {"channel": "email", "locale": "en", "message": {"subject": "Your order 1001", "text": "Thank you. Your order 1001 is on its way."}, "sizes": [], "errors": []}
]}]}))]
pub struct Preview {
    /// Version of the definitions; 0 for those that were sent along.
    pub version: i32,
    /// One entry a template, event and sample.
    pub previews: Vec<TemplatePreview>,
    /// What is wrong with the definitions that were sent along, and is not said of a variant.
    pub findings: Vec<Finding>,
}

/// A template with one sample.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TemplatePreview {
    /// Template.
    #[schema(example = "order_placed")]
    pub template: String,
    /// Name of the declared event; absent where the template's own sample stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Name of the sample.
    #[schema(example = "usual")]
    pub sample: String,
    /// Whose data it shows: `client_user_id`; absent: the sample's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// By channel and locale.
    pub variants: Vec<VariantPreview>,
}

/// A message, or why there is none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VariantPreview {
    /// Channel.
    #[schema(value_type = String, example = "email")]
    pub channel: Channel,
    /// Locale of the variant.
    #[schema(example = "es")]
    pub locale: String,
    /// The variant's fields as they would be sent; absent where it cannot be rendered.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Variant>,
    /// The text part that a mail without one would get, made of its HTML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_text: Option<String>,
    /// How much it takes of its channel's limits.
    pub sizes: Vec<Size>,
    /// Of a text message: what carriers bill.
    #[schema(value_type = Option<Object>, example = json!({"encoding": "GSM-7", "units": 142, "segments": 1}))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Segments>,
    /// What is wrong with it.
    pub errors: Vec<String>,
}

/// How much of a limit a message takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Size {
    /// The field that it is about.
    #[schema(example = "text")]
    pub field: String,
    /// In words.
    #[schema(example = "the message")]
    pub what: String,
    /// How much there is.
    #[schema(example = 142)]
    pub size: usize,
    /// `characters` or `bytes`.
    pub unit: String,
    /// How much there may be.
    #[schema(example = 1600)]
    pub limit: usize,
    /// Whether it is too much.
    pub exceeded: bool,
    /// Who says so.
    pub source: String,
}

impl From<&Measure> for Size {
    fn from(measure: &Measure) -> Self {
        Self {
            field: measure.limit.field.into(),
            what: measure.limit.what.into(),
            size: measure.size,
            unit: measure.limit.unit.name().into(),
            limit: measure.limit.most,
            exceeded: measure.is_exceeded(),
            source: measure.limit.source.into(),
        }
    }
}

/// Shows what templates would say.
///
/// A variant that cannot be rendered says why, and spoils no other.
#[utoipa::path(
    post, path = "/v1/templates/preview", tag = "definitions", security(("api_key" = ["definitions"])), request_body = PreviewRequest,
    responses(
        (status = 200, description = "Every variant, or why there is none", body = Preview),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such template, event, sample or member, or nothing is published", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Of another project, or too much to show at once", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn preview(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Preview>, Problem> {
    caller.require(Scope::Definitions)?;
    let body = shared.read(&headers, body, shared.api.limits.definitions_bytes).await?;
    let mut request: PreviewRequest = serde_json::from_slice(&body).map_err(|error| {
        let remedy = "send any of `template`, `event`, `sample`, `data`, `member` and `definitions`, or `{}`";
        Problem::malformed("body", error.to_string(), remedy)
    })?;
    let profile = match &request.member {
        None => None,
        Some(id) => {
            caller.require(Scope::Members)?;
            profile::member_id(id)?;
            let profile = shared.profile(caller.project(), id).await?;
            Some(profile.ok_or_else(|| {
                Problem::not_found("the project has no such member", "look for it by its client_user_id").at("member")
            })?)
        }
    };
    let given = request.definitions.take();
    let is_ours = |given: &Definitions| given.project.name == caller.project();
    if !given.as_ref().is_none_or(is_ours) {
        let detail = format!("the key is for the project `{}`", caller.project());
        return Err(
            FieldError::new("definitions.project.name", detail, "use a key of the project that they name").into()
        );
    }
    let published = shared.definitions(caller.project());
    let draft = Arc::clone(&shared.api.draft);
    // Compiling and rendering take the time of many requests.
    let answer = tokio::task::spawn_blocking(move || {
        let (compiled, findings) = match (given, published) {
            (Some(given), _) => {
                let (compiled, findings) = draft(given);
                (Arc::new(compiled), findings)
            }
            (None, Some(published)) => (published, Vec::new()),
            (None, None) => {
                let remedy = "publish them by `bellwether apply DIR`, or send `definitions`";
                return Err(Problem::not_found("the project has no definitions yet", remedy));
            }
        };
        previews(&compiled, findings, &request, profile.as_ref())
    });
    answer.await.map_err(|_| Problem::internal())?.map(Json)
}

fn previews(
    compiled: &Compiled,
    mut findings: Vec<Finding>,
    request: &PreviewRequest,
    profile: Option<&Profile>,
) -> Result<Preview, Problem> {
    let is_asked = |asked: &Option<String>, name: &str| asked.as_ref().is_none_or(|asked| asked == name);
    let mut previews = Vec::new();
    let mut variants = 0;
    for template in compiled.document.templates.keys().filter(|name| is_asked(&request.template, name)) {
        let occasions = compiled.occasions(template).into_iter();
        let occasions = occasions.filter(|it| request.event.is_none() || it.event == request.event);
        for occasion in occasions {
            // Data in the place of the samples' is shown once.
            let samples = occasion.samples.iter().filter(|(name, _)| is_asked(&request.sample, name));
            for (sample, context) in samples.take(if request.data.is_some() { 1 } else { usize::MAX }) {
                let context = context_of(context.clone(), &occasion.kind, request, profile);
                let shown = compiled.content().preview(template, &context);
                variants += shown.len();
                if variants > MAX_VARIANTS {
                    let detail = format!("there are more than {MAX_VARIANTS} variants to show");
                    return Err(FieldError::new("template", detail, "name a template, an event or a sample").into());
                }
                previews.push(TemplatePreview {
                    template: template.clone(),
                    event: occasion.event.clone(),
                    sample: if request.data.is_some() { "given".into() } else { sample.clone() },
                    member: request.member.clone(),
                    variants: shown.into_iter().map(|shown| variant(template, shown, &findings)).collect(),
                });
            }
        }
    }
    if previews.is_empty() {
        let detail = "no template is used so";
        return Err(Problem::not_found(detail, "look at `template`, `event` and `sample`").at("template"));
    }
    findings.retain(|finding| {
        !previews
            .iter()
            .any(|shown| shown.variants.iter().any(|v| is_about(finding, &shown.template, v.channel, &v.locale)))
    });
    Ok(Preview { version: compiled.version, previews, findings })
}

/// A sample's context with what was given in its place.
fn context_of(mut sample: Value, kind: &str, request: &PreviewRequest, profile: Option<&Profile>) -> Value {
    if let Some(data) = &request.data {
        sample["event"]["data"] = data.clone();
    }
    if let (Some(id), Some(profile)) = (&request.member, profile) {
        let event = EventAttributes { id: "", kind, source: None, time: bellwether_schemas::Timestamp(0) };
        sample["member"] = context(event, &Value::Null, id, profile)["member"].take();
    }
    sample
}

fn is_about(finding: &Finding, template: &str, channel: Channel, locale: &str) -> bool {
    let path = format!("templates.{template}.channels.{channel}.{locale}");
    finding.field.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn variant(template: &str, shown: Previewed, findings: &[Finding]) -> VariantPreview {
    let Previewed { channel, locale, rendered, measures } = shown;
    let (message, error) = match rendered {
        Ok(message) => (Some(message), None),
        Err(error) => (None, Some(error)),
    };
    let mut errors: Vec<String> = findings
        .iter()
        .filter(|finding| is_about(finding, template, channel, &locale))
        .map(|Finding { field, line, column, problem, .. }| {
            let place = [*line, *column].into_iter().flatten().map(|n| format!(":{n}")).collect::<String>();
            format!("{field}{place}: {problem}")
        })
        .collect();
    errors.extend(error.filter(|_| errors.is_empty()));
    let html = message
        .as_ref()
        .filter(|message| channel == Channel::Email && message.text.is_none())
        .and_then(|m| m.html.as_deref());
    let said = message.as_ref().filter(|_| channel == Channel::Sms).and_then(|message| message.text.as_deref());
    VariantPreview {
        channel,
        locale,
        segments: said.map(segments),
        derived_text: html.and_then(plain),
        message,
        sizes: measures.iter().map(Size::from).collect(),
        errors,
    }
}
