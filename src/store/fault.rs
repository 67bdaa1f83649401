//! What a store's refusal means: S3's error codes → whose fault it is and what to do.

use std::error::Error;

/// A store's refusal, read from the error's text: object_store keeps S3's answer only there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    /// The address, the rights or the set-up are at fault, not the store's health.
    pub users: bool,
    pub remedy: &'static str,
}

/// Codes that S3 and servers like it give, with what to do about them. `true`: trying again changes nothing.
const REFUSALS: &[(&str, bool, &str)] = &[
    ("AccessDenied", true, "grant the action to the identity that runs this; `etl doctor` shows which actions are missing"),
    ("AllAccessDisabled", true, "the bucket's owner has switched all access off"),
    ("InvalidObjectState", true, "the object lies in an archive class: restore it first"),
    ("ExpiredToken", true, "the session has ended: sign in again (aws sso login), or run with a role, whose credentials are refreshed"),
    ("InvalidToken", true, "the session token belongs to other credentials: unset AWS_SESSION_TOKEN or sign in again"),
    ("TokenRefreshRequired", true, "the session has ended: sign in again"),
    ("InvalidAccessKeyId", true, "this server does not know the access key: check profile, environment and endpoint"),
    ("SignatureDoesNotMatch", true, "the secret key is not the access key's, or a proxy changed the request"),
    ("NoSuchBucket", true, "check the name, the account and the endpoint; etl makes no buckets"),
    ("PermanentRedirect", true, "the bucket is in another region: set the option region"),
    ("AuthorizationHeaderMalformed", true, "the request was signed for another region: set the option region"),
    ("IllegalLocationConstraintException", true, "the bucket is in another region: set the option region"),
    ("RequestTimeTooSkewed", true, "this machine's clock is off by more than 15 minutes: set it (NTP)"),
    ("NotImplemented", true, "this server lacks what was asked for; put-if-absent is indispensable (etl doctor)"),
    ("SlowDown", false, "the bucket asked for fewer requests to the end: run again later, or lower the option requests"),
    ("ServiceUnavailable", false, "the store is overloaded: run again later"),
    ("InternalError", false, "the store failed: run again"),
    ("QuotaExceeded", false, "the store is full: make room, then run again"),
];

const KMS: &str = "the KMS key refuses: its policy must let this identity use kms:GenerateDataKey (write) and kms:Decrypt (read)";
const REDIRECTED: &str = "the bucket is in another region: set the option region";
const NO_CREDENTIALS: &str =
    "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role of the task or machine; for a public bucket anonymous=true";
const UNTRUSTED: &str = "check the endpoint; where an authority of your own signs its certificate, name it: ca_bundle=FILE.pem";
const UNREACHABLE: &str = "check the endpoint, the network and name resolution; etl goes on where it stopped";

/// The content of the first element of that name.
pub fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let start = text.find(&format!("<{name}>"))? + name.len() + 2;
    let length = text.get(start..)?.find(&format!("</{name}>"))?;
    text.get(start..start + length)
}

/// Reads a refusal from an error or from what caused it; `None` where no store spoke.
pub fn refusal(error: &(dyn Error + 'static)) -> Option<Refusal> {
    let mut cause = Some(error);
    let mut kind = None;
    while let Some(error) = cause {
        let text = error.to_string();
        if let Some(code) = element(&text, "Code") {
            return Some(named(code, element(&text, "Message").unwrap_or_default()));
        }
        if let Some(ours) = error.downcast_ref::<super::credentials::NoCredentials>() {
            return Some(Refusal { code: "NoCredentials".to_owned(), message: ours.to_string(), users: true, remedy: NO_CREDENTIALS });
        }
        if error.is::<super::wire::Untrusted>() {
            return Some(Refusal { code: "UntrustedCertificate".to_owned(), message: text, users: true, remedy: UNTRUSTED });
        }
        if let Some(error) = error.downcast_ref::<object_store::Error>() {
            kind = kind.or_else(|| by_kind(error));
        }
        if text.contains("redirect without LOCATION") {
            return Some(Refusal { code: "PermanentRedirect".to_owned(), message: String::new(), users: true, remedy: REDIRECTED });
        }
        cause = error.source();
    }
    kind
}

fn named(code: &str, message: &str) -> Refusal {
    let known = REFUSALS.iter().find(|(name, ..)| *name == code);
    let (users, remedy) = match known {
        // Ceph says so of a KMS key that is not there.
        _ if code == "InvalidAccessKeyId" && message.contains("kms-keyid") => (true, KMS),
        _ if code.starts_with("KMS.") || message.contains("kms:") => (true, KMS),
        Some((_, users, remedy)) => (*users, *remedy),
        None => (false, "run again; if it stays, look the code up in S3's list of errors"),
    };
    Refusal { code: code.to_owned(), message: message.to_owned(), users, remedy }
}

/// Answers to HEAD have no body, so their status is all there is.
fn by_kind(error: &object_store::Error) -> Option<Refusal> {
    match error {
        object_store::Error::PermissionDenied { source, .. } | object_store::Error::Unauthenticated { source, .. } => {
            // Local disk says so too, in its own words.
            (source.downcast_ref::<std::io::Error>().is_none()).then(|| named("AccessDenied", ""))
        }
        object_store::Error::Generic { store: "S3", source } if unreachable(source.as_ref()) => {
            Some(Refusal { code: "Unreachable".to_owned(), message: String::new(), users: false, remedy: UNREACHABLE })
        }
        _ => None,
    }
}

fn unreachable(error: &(dyn Error + 'static)) -> bool {
    use object_store::client::{HttpError, HttpErrorKind};
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return matches!(error.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout);
        }
        cause = error.source();
    }
    false
}

/// 404 is said of a bucket as it is of an object.
pub fn is_missing_bucket(error: &(dyn Error + 'static)) -> bool {
    element(&error.to_string(), "Code") == Some("NoSuchBucket")
}

/// An error for people: a store's code and message where one spoke, for its whole answer may hold tokens; else with all causes.
pub fn shown(error: &(dyn Error + 'static)) -> String {
    match refusal(error) {
        Some(refusal) if !refusal.message.is_empty() => format!("{} ({})", refusal.code, refusal.message),
        Some(refusal) if refusal.code != "Unreachable" && refusal.code != "NoCredentials" => refusal.code,
        _ => with_causes(error),
    }
}

/// An error with the words of all its causes, each once.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(body: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: body.to_owned().into() }
    }

    #[test]
    fn codes_become_remedies() {
        let found =
            refusal(&denied("403: <Error><Code>AccessDenied</Code><Message>not authorized to perform: s3:GetObject</Message></Error>"));
        let found = found.unwrap();
        assert!(found.users && found.message.contains("s3:GetObject") && found.remedy.contains("doctor"));
        assert!(!refusal(&denied("<Code>SlowDown</Code>")).unwrap().users);
        let kms = refusal(&denied("<Code>AccessDenied</Code><Message>not authorized to perform: kms:Decrypt</Message>")).unwrap();
        assert!(kms.remedy.contains("kms:Decrypt"));
        let named = refusal(&denied("<Code>AccessDenied</Code><Message>role/etl-kms is not authorized to perform: s3:GetObject</Message>"));
        assert!(named.unwrap().remedy.contains("doctor"));
        assert_eq!(refusal(&denied("something else")), None);
    }
}
