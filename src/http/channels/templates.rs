//! `/v1/channels/whatsapp/templates`: what the accounts at Meta say of themselves. It asks; it changes nothing.

use crate::http::{
    Shared,
    auth::{Caller, Scope},
    problem::{Problem, ProblemDocument},
};
use axum::{Json, extract::State};
use bellwether_connectors::channels::whatsapp::{self, ApprovedTemplate, TemplateHeader};
use bellwether_schemas::definitions::MediaKind;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// The templates of every WhatsApp provider of a project.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"accounts": [{"provider": "whatsapp-main", "templates": [{"name": "order_placed", "language": "es_AR", "status": "APPROVED",
    "category": "UTILITY", "body": "Your order {{1}} is on its way.", "parameters": 1, "named": false, "buttons": []}]}]}))]
pub struct Accounts {
    /// One a provider, by name.
    pub accounts: Vec<Account>,
}

/// The templates of one provider's account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Provider's name in the definitions.
    #[schema(example = "whatsapp-main")]
    pub provider: String,
    /// Why its templates cannot be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its templates in Meta's order, whatever their state.
    pub templates: Vec<Template>,
}

/// A template at Meta.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// Name.
    #[schema(example = "order_placed")]
    pub name: String,
    /// Language code at Meta.
    #[schema(example = "es_AR")]
    pub language: String,
    /// Meta's state: only `APPROVED` can be sent.
    #[schema(example = "APPROVED")]
    pub status: String,
    /// Why it was rejected or paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What members make of it: `GREEN`, `YELLOW` or `RED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
    /// `MARKETING`, `UTILITY` or `AUTHENTICATION`.
    #[schema(example = "UTILITY")]
    pub category: String,
    /// What stands above the body: `image`, `video`, `document`, `text`, or what cannot be sent from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The body, with its placeholders.
    #[schema(example = "Your order {{1}} is on its way.")]
    pub body: String,
    /// Placeholders of the body.
    pub parameters: usize,
    /// Its placeholders have names; it cannot be sent from here.
    pub named: bool,
    /// Buttons in order.
    pub buttons: Vec<TemplateButton>,
}

/// A button of a template.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TemplateButton {
    /// Meta's name of its type.
    #[schema(example = "URL")]
    pub kind: String,
    /// What it says.
    pub text: String,
    /// Placeholders of its URL.
    pub parameters: usize,
}

impl From<ApprovedTemplate> for Template {
    fn from(template: ApprovedTemplate) -> Self {
        let header = template.header.map(|header| match header {
            TemplateHeader::Text(_) => "text".to_owned(),
            TemplateHeader::Media(MediaKind::Image) => "image".into(),
            TemplateHeader::Media(MediaKind::Video) => "video".into(),
            TemplateHeader::Media(MediaKind::Document) => "document".into(),
            TemplateHeader::Other(name) => name.to_ascii_lowercase(),
        });
        let button = |whatsapp::TemplateButton { kind, text, parameters }| TemplateButton { kind, text, parameters };
        Self {
            name: template.name,
            language: template.language,
            status: template.status,
            reason: template.rejected_reason,
            quality: template.quality,
            category: template.category,
            header,
            body: template.body,
            parameters: template.parameters,
            named: template.named,
            buttons: template.buttons.into_iter().map(button).collect(),
        }
    }
}

/// The templates that Meta has of the project's WhatsApp accounts, with their state of approval.
#[utoipa::path(
    get, path = "/v1/channels/whatsapp/templates", tag = "channels", security(("api_key" = ["definitions"])),
    responses(
        (status = 200, description = "The templates, or why an account's cannot be had", body = Accounts),
        (status = 404, description = "The project has no WhatsApp provider", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn templates(State(shared): State<Arc<Shared>>, caller: Caller) -> Result<Json<Accounts>, Problem> {
    caller.require(Scope::Definitions)?;
    let definitions = shared.definitions(caller.project());
    let providers = definitions.iter().flat_map(|known| &known.document.providers);
    let providers = providers.filter(|(_, provider)| provider.kind == whatsapp::KIND);
    let asked = providers.map(async |(name, provider)| {
        let (templates, problem) = match shared.api.approvals.templates(provider).await {
            Ok(Some(templates)) => (templates, None),
            Ok(None) => (Vec::new(), Some("`waba_id` is not set: it says whose templates to fetch".to_owned())),
            Err(error) => (Vec::new(), Some(error)),
        };
        Account { provider: name.clone(), problem, templates: templates.into_iter().map(Template::from).collect() }
    });
    let accounts = futures::future::join_all(asked).await;
    if accounts.is_empty() {
        let remedy = "define one of kind `whatsapp_cloud`, and apply";
        return Err(Problem::not_found("the project has no WhatsApp provider", remedy).at("project"));
    }
    Ok(Json(Accounts { accounts }))
}
