//! `bellwether channel templates`: WhatsApp's templates with their state at Meta.

use crate::http::channels::templates::{Account, Accounts, Template};

/// A table an account.
pub(super) fn table(accounts: &Accounts) -> String {
    let mut text = String::new();
    for Account { provider, problem, templates } in &accounts.accounts {
        let state = problem.clone().unwrap_or_else(|| format!("{} templates", templates.len()));
        text.push_str(&format!("{provider}: {state}\n"));
        let head = ["NAME", "LANGUAGE", "STATUS", "CATEGORY", "QUALITY", "HEADER", "PARAMETERS", "BUTTONS"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(templates.iter().map(row));
        if rows.len() == 1 {
            continue;
        }
        let widths: Vec<usize> =
            (0..head.len()).map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(&format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end()));
        }
    }
    text
}

fn row(template: &Template) -> [String; 8] {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let reason = template.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let parameters = if template.named { "named".into() } else { template.parameters.to_string() };
    let buttons = template.buttons.iter().map(|button| match button.parameters {
        0 => button.kind.clone(),
        n => format!("{}:{n}", button.kind),
    });
    let buttons = buttons.collect::<Vec<_>>().join(",");
    [
        template.name.clone(),
        template.language.clone(),
        format!("{}{reason}", template.status),
        template.category.clone(),
        or_none(&template.quality),
        or_none(&template.header),
        parameters,
        if buttons.is_empty() { "-".into() } else { buttons },
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_stand_in_a_table_and_problems_in_words() {
        let accounts = serde_json::from_value(json!({"accounts": [
            {"provider": "main", "templates": [
                {"name": "order_placed", "language": "es_AR", "status": "APPROVED", "quality": "GREEN", "category": "UTILITY", "header": "document",
                    "body": "{{1}}", "parameters": 1, "named": false, "buttons": [{"kind": "URL", "text": "Go", "parameters": 1}, {"kind": "QUICK_REPLY", "text": "No", "parameters": 0}]},
                {"name": "tips", "language": "en", "status": "REJECTED", "reason": "INVALID_FORMAT", "category": "MARKETING", "body": "Hi", "parameters": 1,
                    "named": true, "buttons": []},
            ]},
            {"provider": "old", "problem": "unauthorized: 190: access token expired", "templates": []},
        ]}))
        .unwrap();
        insta::assert_snapshot!(table(&accounts), @r"
        main: 2 templates
          NAME          LANGUAGE  STATUS                     CATEGORY   QUALITY  HEADER    PARAMETERS  BUTTONS
          order_placed  es_AR     APPROVED                   UTILITY    GREEN    document  1           URL:1,QUICK_REPLY
          tips          en        REJECTED (INVALID_FORMAT)  MARKETING  -        -         named       -
        old: unauthorized: 190: access token expired
        ");
    }
}
