//! `bellwether channel list|test|templates`: how the providers of each channel stand, a test message by one of them, and `templates` at Meta.

mod templates;

use super::{Connection, print, print_json};
use crate::{
    http::channels::{Channels, TestAnswer, TestRequest, templates::Accounts},
    mask,
};
use clap::{Args, Subcommand};
use reqwest::Method;

/// Shows channels and their providers, and tests them.
#[derive(Args, Clone, Debug)]
pub struct Channel {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Where the API is.
    #[command(flatten)]
    pub connection: Connection,
}

/// See [`Channel`].
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Lists channels with their providers and how these stand.
    List,
    /// Sends one test message, and prints the provider's answer and how it was classified. The exit code is 1 where it was not taken.
    Test {
        /// email, sms, whatsapp, telegram, `web_push`, `app_push` or webhook.
        channel: String,
        /// Address, as in a member's profile.
        to: String,
        /// Provider by name; by default the one that would send to this address.
        #[arg(long)]
        provider: Option<String>,
        /// Template, rendered with its sample; by default a line that says it is a test.
        #[arg(long)]
        template: Option<String>,
        /// Locale of the template.
        #[arg(long)]
        locale: Option<String>,
    },
    /// Lists the templates of the WhatsApp accounts with their state of approval at Meta.
    Templates,
}

impl Channel {
    /// Runs the command.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses; or the provider did not take the test message.
    pub async fn run(self) -> anyhow::Result<()> {
        let (client, as_json) = (self.connection.client()?, self.connection.json);
        match self.action {
            Action::List => {
                let channels: Channels = client.get("/v1/channels", &[]).await?;
                if as_json { print_json(&channels) } else { print(&list(&channels)) }
            }
            Action::Test { channel, to, provider, template, locale } => {
                let path = format!("/v1/channels/{}/test", super::client::segment(&channel));
                let asked = TestRequest { to, provider, template, locale };
                let answer: TestAnswer = client.send_json(Method::POST, &path, &asked).await?;
                if as_json {
                    print_json(&answer)?;
                } else {
                    print(&tested(&answer))?;
                }
                anyhow::ensure!(answer.accepted, "the provider did not take the test message");
                Ok(())
            }
            Action::Templates => {
                let accounts: Accounts = client.get("/v1/channels/whatsapp/templates", &[]).await?;
                if as_json { print_json(&accounts) } else { print(&templates::table(&accounts)) }
            }
        }
    }
}

fn list(channels: &Channels) -> String {
    let mut text =
        format!("{:<10} {:<20} {:<16} {:>6} {:>8}  state\n", "channel", "provider", "kind", "weight", "per s");
    for channel in &channels.channels {
        for provider in &channel.providers {
            let rate = provider.rate_per_second.map_or_else(|| "-".into(), |rate| rate.to_string());
            let until = provider.until.as_ref().map_or_else(String::new, |until| format!(" until {until}"));
            let why =
                if provider.detail.is_empty() { String::new() } else { format!(": {}", mask::text(&provider.detail)) };
            text.push_str(&format!(
                "{:<10} {:<20} {:<16} {:>6} {rate:>8}  {}{until}{why}\n",
                channel.channel, provider.name, provider.kind, provider.weight, provider.state
            ));
        }
    }
    text
}

fn tested(answer: &TestAnswer) -> String {
    let TestAnswer { provider, kind, provider_id, error, detail, retry_after_seconds, took_ms, .. } = answer;
    let mut text = match error {
        None => format!("{provider} ({kind}) took it in {took_ms} ms"),
        Some(error) => format!("{provider} ({kind}) did not take it ({took_ms} ms)\nclassified   {error}"),
    };
    for (label, value) in [
        ("provider id ", provider_id.clone()),
        ("said        ", detail.as_deref().map(mask::text)),
        ("wait        ", retry_after_seconds.map(|seconds| format!("{seconds} s"))),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("\n{label} {value}"));
        }
    }
    text
}
