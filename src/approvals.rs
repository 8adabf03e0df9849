//! WhatsApp's variants against the templates that Meta has approved: what `apply` would else learn from the first refused message. Asking is
//! the connector's; what does not fit is decided here by comparing, and nothing is kept: Meta's word of today counts.

use async_trait::async_trait;
use bellwether_connectors::channels::whatsapp::{self, ApprovedTemplate, Config, WhatsappSink};
use bellwether_processors::definitions::{Finding, did_you_mean};
use bellwether_schemas::{
    Channel,
    definitions::{Definitions, Provider, Variant},
};
use futures::future::join_all;
use std::{fmt::Debug, time::Duration};

/// How long Meta may take for all pages of an account.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who knows the templates of an account.
#[async_trait]
pub trait Approvals: Debug + Send + Sync {
    /// Every template of a provider's account, whatever its state; `None` where the provider does not say which account is its.
    ///
    /// # Errors
    /// Why they cannot be had, in words.
    async fn templates(&self, provider: &Provider) -> Result<Option<Vec<ApprovedTemplate>>, String>;
}

/// Meta itself.
#[derive(Debug)]
pub struct Meta;

#[async_trait]
impl Approvals for Meta {
    async fn templates(&self, provider: &Provider) -> Result<Option<Vec<ApprovedTemplate>>, String> {
        let settings = serde_json::Value::Object(provider.settings.clone());
        let config: Config = serde_json::from_value(settings).map_err(|error| error.to_string())?;
        if config.waba_id.is_none() {
            return Ok(None);
        }
        let sink = WhatsappSink::new(config).map_err(|error| error.to_string())?;
        match tokio::time::timeout(PATIENCE, sink.templates()).await {
            Ok(answer) => answer.map(Some).map_err(|error| error.to_string()),
            Err(_) => Err(format!("no whole answer within {} seconds", PATIENCE.as_secs())),
        }
    }
}

/// What asking came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What must be corrected.
    pub findings: Vec<Finding>,
    /// What could not be checked, which refuses nothing.
    pub remarks: Vec<Finding>,
}

/// Compares every WhatsApp variant with the account of every WhatsApp provider. Without such variants nobody is asked.
pub async fn check(document: &Definitions, approvals: &dyn Approvals) -> Checked {
    let mut checked = Checked::default();
    if variants(document).next().is_none() {
        return checked;
    }
    let accounts = document.providers.iter().filter(|(_, provider)| provider.kind == whatsapp::KIND);
    let asked = accounts.map(async |(name, provider)| (name, approvals.templates(provider).await));
    for (name, answer) in join_all(asked).await {
        let (problem, remedy) = match answer {
            Ok(Some(templates)) => {
                checked.findings.extend(compare(document, name, &templates));
                continue;
            }
            Ok(None) => ("no `waba_id` says which account is its".to_owned(), "set `waba_id`"),
            Err(error) => (error, "mend it, and apply again to be sure"),
        };
        let problem = format!("the WhatsApp variants were not compared with Meta's templates: {problem}");
        let path = format!("providers.{name}");
        checked.remarks.push(Finding { path, line: None, column: None, problem, remedy: remedy.into() });
    }
    checked.findings.sort();
    checked.findings.dedup();
    checked
}

/// All variants that name a template of Meta's, each with its path.
fn variants(document: &Definitions) -> impl Iterator<Item = (String, &Variant)> {
    document.templates.iter().flat_map(|(name, template)| {
        let locales = template.channels.get(&Channel::Whatsapp).into_iter().flatten();
        locales.filter(|(_, variant)| variant.template.is_some()).map(move |(locale, variant)| {
            (format!("templates.{name}.channels.{}.{locale}", Channel::Whatsapp), variant)
        })
    })
}

/// What of a project's WhatsApp variants does not fit the templates of one provider's account.
#[must_use]
pub fn compare(document: &Definitions, provider: &str, templates: &[ApprovedTemplate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, variant) in variants(document) {
        let Some(wanted) = &variant.template else { continue };
        let mut add = |field: &str, problem: String, remedy: String| {
            findings.push(Finding { path: format!("{path}.{field}"), line: None, column: None, problem, remedy });
        };
        let named: Vec<&ApprovedTemplate> = templates.iter().filter(|one| one.name == wanted.name).collect();
        match named.iter().find(|one| one.language == wanted.language) {
            Some(template) => {
                template
                    .misfits(variant)
                    .into_iter()
                    .for_each(|misfit| add(&misfit.field, misfit.problem, misfit.remedy));
            }
            None if named.is_empty() => {
                let hint = did_you_mean(&wanted.name, templates.iter().map(|one| one.name.as_str()));
                let problem = format!("the account of `{provider}` has no template `{}`{hint}", wanted.name);
                let remedy = "name one that `bellwether channel templates` lists, or have it approved at Meta";
                add("template.name", problem, remedy.into());
            }
            None => {
                let languages: Vec<&str> = named.iter().map(|one| one.language.as_str()).collect();
                let hint = did_you_mean(&wanted.language, languages.iter().copied());
                let (name, language) = (&wanted.name, &wanted.language);
                let problem = format!("the account of `{provider}` has no `{name}` in `{language}`{hint}");
                add("template.language", problem, format!("use {}", languages.join(", ")));
            }
        }
    }
    findings
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn approved(name: &str, language: &str, status: &str, parameters: usize) -> ApprovedTemplate {
        serde_json::from_value(json!({"name": name, "language": language, "status": status, "rejected_reason": null, "quality": null,
            "category": "UTILITY", "named": false, "header": null, "body": "", "parameters": parameters, "buttons": []}))
        .unwrap()
    }

    fn document(variants: Value, providers: Value) -> Definitions {
        serde_json::from_value(
            json!({"project": {"name": "shop", "default_locale": "en"}, "providers": providers, "flows": {},
            "templates": {"order": {"channels": {"whatsapp": variants}}}}),
        )
        .unwrap()
    }

    fn variant(name: &str, language: &str, parameters: &[&str]) -> Value {
        json!({"template": {"name": name, "language": language, "parameters": parameters}})
    }

    #[test]
    fn every_variant_is_held_against_the_account() {
        let account = [
            approved("order_placed", "en", "APPROVED", 1),
            approved("order_placed", "es_AR", "APPROVED", 1),
            approved("tips", "en", "PENDING", 0),
        ];
        for (variant, expected) in [
            (variant("order_placed", "en", &["x"]), None),
            (variant("order_placed", "es_AR", &["x"]), None),
            (json!({"text": "only while the window is open"}), None),
            (
                variant("order_plcaed", "en", &["x"]),
                Some(("template.name", "has no template `order_plcaed` (did you mean `order_placed`?)")),
            ),
            (variant("welcome", "en", &[]), Some(("template.name", "the account of `wa` has no template `welcome`"))),
            (variant("order_placed", "es_ES", &["x"]), Some(("template.language", "has no `order_placed` in `es_ES`"))),
            (
                variant("order_placed", "en", &[]),
                Some(("template.parameters", "0 are given, and the body of `order_placed` (en) has 1")),
            ),
            (variant("tips", "en", &[]), Some(("template.name", "as PENDING, not APPROVED"))),
        ] {
            let found = compare(&document(json!({"en": variant}), json!({})), "wa", &account);
            let Some((field, words)) = expected else {
                assert_eq!(found, [], "{variant}");
                continue;
            };
            assert_eq!(found[0].path, format!("templates.order.channels.whatsapp.en.{field}"));
            assert!(found.len() == 1 && found[0].problem.contains(words), "{found:?}");
        }
    }

    /// Accounts by the provider's phone number.
    #[derive(Debug)]
    struct Known;

    #[async_trait]
    impl Approvals for Known {
        async fn templates(&self, provider: &Provider) -> Result<Option<Vec<ApprovedTemplate>>, String> {
            match provider.settings["phone_number_id"].as_str().unwrap() {
                "1" => Ok(Some(vec![approved("hello", "en", "APPROVED", 0)])),
                "2" => Ok(None),
                _ => Err("unauthorized: 190: access token expired".into()),
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_a_remark() {
        let provider = |number: &str| json!({"kind": "whatsapp_cloud", "phone_number_id": number});
        let providers = json!({"a": provider("1"), "b": provider("2"), "c": provider("3"), "mail": {"kind": "smtp"}});
        let checked = check(&document(json!({"en": variant("hello", "en", &[])}), providers.clone()), &Known).await;
        assert_eq!(checked.findings, []);
        let remarks: Vec<String> = checked.remarks.iter().map(Finding::to_string).collect();
        let words = "the WhatsApp variants were not compared with Meta's templates:";
        assert_eq!(
            remarks,
            [
                format!("providers.b: {words} no `waba_id` says which account is its; set `waba_id`"),
                format!(
                    "providers.c: {words} unauthorized: 190: access token expired; mend it, and apply again to be sure"
                ),
            ]
        );
        let checked = check(&document(json!({"en": variant("helo", "en", &[])}), providers.clone()), &Known).await;
        assert_eq!((checked.findings.len(), checked.remarks.len()), (1, 2));
        assert_eq!(
            check(&document(json!({"en": {"text": "x"}}), providers), &Known).await,
            Checked::default(),
            "nobody was asked"
        );
    }
}
