//! From an event to the notifications it causes. Decides by the project's flows alone; it knows nothing of the member.

use crate::{
    definitions::{Misfit, Projects},
    processor::{Facts, Incoming, Output, Processor, Refusal},
};
use bellwether_schemas::{
    NotificationId, Timestamp,
    ids::EntryId,
    records::{Decision, Event, Notification, Outcome, Reason, Record},
    rows::Read,
};
use std::time::Duration;

/// The flow processor.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Compiled definitions of every project.
    pub projects: Projects,
}

impl Processor for Flow {
    const NAME: &'static str = "flow";
    type Input = Event;

    fn needs(&self, _: &Incoming<Event>, _: &Facts, _: Timestamp) -> Vec<Read> {
        Vec::new()
    }

    fn decide(&self, incoming: &Incoming<Event>, _: &Facts, now: Timestamp) -> Result<Output, Refusal> {
        let event = &incoming.input;
        let member = event
            .subject
            .as_deref()
            .ok_or_else(|| Refusal::new(Reason::Invalid, "subject: missing; set it to the member's client_user_id"))?;
        let project = self.projects.get(&event.project).ok_or_else(|| {
            Refusal::new(
                Reason::Invalid,
                format!("project: `{}` has no definitions; run `bellwether apply`, then replay", event.project),
            )
        })?;
        let mut output = Output::default();
        if project.flows(&event.kind).is_empty() {
            let (name, none) = (String::new(), NotificationId::derive(event.event_id(), "", 0, 0, member));
            output.records.push(negative(event, member, none, name, 0, Outcome::NoFlow, now));
            return Ok(output);
        }
        let data: serde_json::Value = serde_json::from_str(&event.data)
            .map_err(|e| Refusal::new(Reason::Invalid, format!("data: {e}; send a JSON value")))?;
        if let Some(Misfit { field, problem }) = project.misfit(&event.kind, &data) {
            let place = if field.is_empty() { "data".to_owned() } else { format!("data.{field}") };
            let remedy = format!("send what is declared of `{}`, or declare what is sent, then replay", event.kind);
            return Err(Refusal::new(Reason::Invalid, format!("{place}: {problem}; {remedy}")));
        }
        for (flow, admits) in project.triggered(event, &data) {
            let id = NotificationId::derive(event.event_id(), &flow.name, flow.version, 0, member);
            match admits {
                Ok(true) => output.records.push(Record::Notification(Notification {
                    id,
                    project: event.project.clone(),
                    member: member.to_owned(),
                    event: event.event_id(),
                    event_type: event.kind.clone(),
                    flow: flow.name.clone(),
                    flow_version: flow.version,
                    step: 0,
                    template: flow.template(member).to_owned(),
                    lane: flow.lane,
                    channels: flow.channels.clone(),
                    expires_at: flow.expires_after_seconds.map(|s| event.accepted_at.plus(Duration::from_secs(s))),
                    accepted_at: event.accepted_at,
                    data: event.data.clone(),
                    round: 0,
                    tried: Vec::new(),
                    gathered_in: None,
                })),
                Ok(false) => output.records.push(negative(
                    event,
                    member,
                    id,
                    flow.name.clone(),
                    flow.version,
                    Outcome::ConditionFalse,
                    now,
                )),
                // The other flows of this event are not to suffer from this one.
                Err(problem) => {
                    output.refused = Some(Refusal::new(
                        Reason::Evaluation,
                        format!(
                            "flows.{}.when: {problem}; mend the condition or the event's data, then replay",
                            flow.name
                        ),
                    ));
                }
            }
        }
        Ok(output)
    }
}

fn negative(
    event: &Event,
    member: &str,
    notification: NotificationId,
    flow: String,
    flow_version: i32,
    outcome: Outcome,
    now: Timestamp,
) -> Record {
    Record::Decision(Decision {
        id: EntryId::derive("flow", &[notification.0.as_bytes(), outcome.name().as_bytes()]),
        notification,
        project: event.project.clone(),
        member: member.to_owned(),
        event: event.event_id(),
        event_type: event.kind.clone(),
        detail: match outcome {
            Outcome::NoFlow => format!("no flow is triggered by `{}`", event.kind),
            _ => format!("the condition of flow `{flow}` is false for this event"),
        },
        flow,
        flow_version,
        template: String::new(),
        at: now,
        outcome,
        channel: None,
        delivery: None,
        trace: Vec::new(),
    })
}
