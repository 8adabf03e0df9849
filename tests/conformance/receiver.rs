//! A receiver in the shapes of all providers, which answers each project with its code, and afterwards says by the provider's own door what a
//! provider says later. The forms are those of the providers' documents, named in their tables of codes.

use crate::{
    RETRY_AFTER,
    house::{House, until},
    tables::Case,
};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// The one secret that tokens, passwords and signatures are made of here; it has the form of each.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The receiver of every provider that speaks HTTP.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    desk: Desk,
}

/// Cases by project, and the body that each was sent.
#[derive(Clone, Default)]
struct Desk(Arc<HashMap<String, Case>>, Arc<Mutex<HashMap<String, Vec<u8>>>>);

/// Letters that were taken, by project: the return path and the whole letter.
static LETTERS: Mutex<Vec<(String, String, String)>> = Mutex::new(Vec::new());

impl Receiver {
    pub(crate) async fn start(cases: &[Case]) -> Self {
        let by_project = cases.iter().map(|case| (case.project.clone(), case.clone())).collect();
        let desk = Desk(Arc::new(by_project), Arc::default());
        let router = Router::new().fallback(answer).with_state(desk.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, desk }
    }

    /// The body that a project's provider was sent.
    async fn body(&self, project: &str) -> Vec<u8> {
        until(project, async || self.desk.1.lock().unwrap().get(project).cloned()).await
    }

    /// Says the code of a message that was taken.
    pub(crate) async fn tell_later(&self, house: &House, case: &Case, mail: SocketAddr) {
        match case.provider {
            "twilio" => self.twilio_calls_back(house, case).await,
            "whatsapp" => self.meta_calls_back(house, case).await,
            "mail" => report(case, mail).await,
            other => panic!("{other} says nothing later"),
        }
    }

    async fn twilio_calls_back(&self, house: &House, case: &Case) {
        let body = self.body(&case.project).await;
        let sent = reqwest::Url::parse(&format!("http://x/?{}", String::from_utf8_lossy(&body))).unwrap();
        let find = |wanted: &str| sent.query_pairs().find(|(name, _)| name == wanted).unwrap().1.into_owned();
        let (callback, to) = (find("StatusCallback"), find("To"));
        let code = case.code.as_str();
        let mut form = [
            ("ErrorCode", code),
            ("MessageSid", "SM1"),
            ("MessageStatus", "undelivered"),
            ("To", &to),
            ("RawDlrDoneDate", "x"),
        ];
        form.sort_unstable();
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(callback.as_bytes());
        form.iter().for_each(|(name, value)| mac.update(format!("{name}{value}").as_bytes()));
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let url = callback.replace("https://hooks.example", &house.base);
        let call = house.client.post(url).header("x-twilio-signature", signature).form(&form).send().await.unwrap();
        assert_eq!(call.status(), 204, "twilio {code}");
    }

    async fn meta_calls_back(&self, house: &House, case: &Case) {
        let sent: Value = serde_json::from_slice(&self.body(&case.project).await).unwrap();
        let status = json!({"id": "wamid.1", "status": "failed", "timestamp": "1767225600", "recipient_id": "34600111222",
            "biz_opaque_callback_data": sent["biz_opaque_callback_data"],
            "errors": [{"code": case.number(), "title": "words", "message": "words", "error_data": {"details": "more"}}]});
        let value =
            json!({"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1"}, "statuses": [status]});
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]});
        let body = body.to_string();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let call = house.client.post(format!("{}/v1/webhooks/{}/main", house.base, case.project));
        let call = call.header("x-hub-signature-256", format!("sha256={hex}")).body(body).send().await.unwrap();
        assert_eq!(call.status(), 204, "whatsapp {}", case.code);
    }
}

async fn answer(State(desk): State<Desk>, uri: Uri, body: Bytes) -> Response {
    let mut path = uri.path().splitn(3, '/').skip(1);
    let (project, rest) = (path.next().unwrap_or_default().to_owned(), path.next().unwrap_or_default());
    if rest == "token" {
        return json_answer(200, &json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}));
    }
    let Some(case) = desk.0.get(&project) else { return StatusCode::IM_A_TEAPOT.into_response() };
    desk.1.lock().unwrap().insert(project, body.to_vec());
    let mut response = match (case.provider, case.later) {
        ("twilio", true) => json_answer(201, &json!({"sid": "SM1", "status": "queued"})),
        ("whatsapp", true) => json_answer(200, &json!({"messages": [{"id": "wamid.1"}]})),
        ("twilio", _) => twilio(case.number()),
        ("whatsapp", _) => meta(case.number()),
        ("telegram", _) => telegram(case.number(), &case.name),
        ("fcm", _) => firebase(&case.code),
        ("apns", _) => json_answer(apple_status(&case.code), &json!({"reason": case.code})),
        _ => StatusCode::from_u16(u16::try_from(case.number()).unwrap()).unwrap().into_response(),
    };
    if case.class == "throttled" && case.wait.is_none() && !case.later && case.provider != "telegram" {
        response.headers_mut().insert("retry-after", RETRY_AFTER.as_secs().into());
    }
    response
}

fn json_answer(status: u16, body: &Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

fn twilio(code: u32) -> Response {
    let status = match code {
        20003 | 10001 => 401,
        20404 => 404,
        20429 | 14107 | 63038 => 429,
        20500 => 500,
        20503 | 21730 => 503,
        _ => 400,
    };
    let more = format!("https://www.twilio.com/docs/errors/{code}");
    json_answer(status, &json!({"code": code, "message": "words", "more_info": more, "status": status}))
}

fn meta(code: u32) -> Response {
    let status = match code {
        0 | 190 => 401,
        3 | 10 | 200 | 368 | 131_005 | 131_031 => 403,
        4 | 80007 | 130_429 => 429,
        1 | 131_000 | 131_057 => 500,
        2 | 131_016 | 133_004 => 503,
        _ => 400,
    };
    let error = json!({"message": format!("(#{code}) words"), "type": "OAuthException", "code": code,
        "error_data": {"messaging_product": "whatsapp", "details": "more"}, "fbtrace_id": "A"});
    json_answer(status, &json!({"error": error}))
}

fn telegram(status: u32, words: &str) -> Response {
    let status = u16::try_from(status).unwrap();
    let beginning = match status {
        400 => "Bad Request: ",
        403 => "Forbidden: ",
        409 => "Conflict: ",
        _ => "",
    };
    let mut body = json!({"ok": false, "error_code": status, "description": format!("{beginning}{words}")});
    if status == 429 {
        body["parameters"] = json!({"retry_after": RETRY_AFTER.as_secs()});
    }
    json_answer(status, &body)
}

fn firebase(code: &str) -> Response {
    let status = match code {
        "INVALID_ARGUMENT" => 400,
        "THIRD_PARTY_AUTH_ERROR" | "UNAUTHENTICATED" => 401,
        "SENDER_ID_MISMATCH" | "PERMISSION_DENIED" => 403,
        "UNREGISTERED" => 404,
        "ABORTED" => 409,
        "QUOTA_EXCEEDED" | "RESOURCE_EXHAUSTED" => 429,
        "UNAVAILABLE" => 503,
        "DEADLINE_EXCEEDED" => 504,
        _ => 500,
    };
    let general = ["ABORTED", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"];
    let mut error = json!({"code": status, "message": "words", "status": code});
    if !general.contains(&code) {
        error["status"] = "UNKNOWN".into();
        error["details"] = json!([{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]);
    }
    json_answer(status, &json!({"error": error}))
}

fn apple_status(reason: &str) -> u16 {
    match reason {
        "BadPath" => 404,
        "MethodNotAllowed" => 405,
        "ExpiredToken" | "Unregistered" => 410,
        "PayloadTooLarge" => 413,
        "TooManyProviderTokenUpdates" | "TooManyRequests" => 429,
        "InternalServerError" => 500,
        "ServiceUnavailable" | "Shutdown" => 503,
        "BadCertificate"
        | "BadCertificateEnvironment"
        | "ExpiredProviderToken"
        | "Forbidden"
        | "InvalidProviderToken"
        | "MissingProviderToken"
        | "UnrelatedKeyIdInToken"
        | "BadEnvironmentKeyIdInToken"
        | "BadEnvironmentKeyInToken" => 403,
        _ => 400,
    }
}

/// A mail server for one case: it says the case's reply at the case's turn of the dialogue, or takes the letter where the code is a report's.
pub(crate) async fn smtp(case: &Case) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let case = case.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let case = case.clone();
            // A client that leaves is none of our business.
            tokio::spawn(async move { dialogue(&case, stream).await.ok() });
        }
    });
    address
}

async fn dialogue(case: &Case, stream: TcpStream) -> std::io::Result<()> {
    let refusal = (case.provider == "smtp").then(|| case.code.split_once(' ').unwrap());
    let say = |turn: &str, else_say: &str| match refusal {
        Some((at, reply)) if at == turn => format!("{reply} {}\r\n", case.name),
        _ => format!("{else_say}\r\n"),
    };
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(say("GREETING", "220 mx.example").as_bytes()).await?;
    let (mut path, mut letter, mut in_data) = (String::new(), String::new(), false);
    while let Some(line) = lines.next_line().await? {
        let reply = match (in_data, line.split([' ', ':']).next().unwrap_or_default()) {
            (true, ".") => {
                in_data = false;
                let letter = std::mem::take(&mut letter);
                LETTERS.lock().unwrap().push((case.project.clone(), path.clone(), letter));
                say("END", "250 kept")
            }
            (true, _) => {
                letter.push_str(line.strip_prefix('.').unwrap_or(&line));
                letter.push_str("\r\n");
                continue;
            }
            (_, "EHLO" | "HELO") => say("EHLO", "250-mx.example\r\n250-ENHANCEDSTATUSCODES\r\n250 AUTH PLAIN LOGIN"),
            (_, "AUTH") => say("AUTH", "235 2.7.0 welcome"),
            (_, "MAIL") => {
                path = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                say("MAIL", "250 ok")
            }
            (_, "RCPT") => say("RCPT", "250 ok"),
            (_, "DATA") => {
                in_data = refusal.is_none_or(|(at, _)| at != "DATA");
                say("DATA", "354 go")
            }
            _ => "250 ok\r\n".to_owned(),
        };
        write.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}

/// The recipient's server reports, to the letter's own return path, that it gave up with the case's status (RFC 3464).
async fn report(case: &Case, mail: SocketAddr) {
    let (_, path, letter) = until(&case.project, async || {
        LETTERS.lock().unwrap().iter().find(|(project, ..)| *project == case.project).cloned()
    })
    .await;
    let headers: String =
        letter.lines().take_while(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    let (status, words) = (case.enhanced(), &case.name);
    let report = format!(
        "From: MAILER-DAEMON@mx.example\r\nTo: {path}\r\nSubject: failed\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nIt failed.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\nFinal-Recipient: rfc822; {}@example.org\r\n\
         Action: failed\r\nStatus: {status}\r\nDiagnostic-Code: smtp; 550 {status} {words}\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n{headers}\r\n--b--\r\n",
        case.project
    );
    let (read, mut write) = TcpStream::connect(mail).await.unwrap().into_split();
    let mut lines = BufReader::new(read).lines();
    for (say, hear) in [
        (String::new(), "220"),
        ("HELO mx.example\r\n".into(), "250"),
        ("MAIL FROM:<>\r\n".into(), "250"),
        (format!("RCPT TO:<{path}>\r\n"), "250"),
        ("DATA\r\n".into(), "354"),
        (format!("{report}.\r\n"), "250"),
    ] {
        write.write_all(say.as_bytes()).await.unwrap();
        let heard = lines.next_line().await.unwrap().unwrap();
        assert!(heard.starts_with(hear), "{say}: {heard}");
    }
}
