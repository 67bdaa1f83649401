//! How a bucket is reached, as people write it (`key=value`, comma-separated) and as it is meant.
//!
//! Credentials are no options: they come from the environment, a profile, the task's or the machine's role, and are never written
//! on a command line where others can read them.

use std::path::PathBuf;
use std::time::Duration;

use crate::job::parse_duration_setting;

/// Every option with its unit and default, as `--help` and mistakes show them.
pub const KNOWN: &[(&str, &str)] = &[
    ("region", "the bucket's region [default: AWS_REGION, the profile's, else asked of S3]"),
    ("endpoint", "URL of a VPC endpoint or another S3 server [default: AWS's]"),
    ("path_style", "true | false: bucket in the path, not in the host name [default: true where there is an endpoint]"),
    ("profile", "profile of the shared AWS files [default: AWS_PROFILE]"),
    ("role", "ARN of a role to assume for this place"),
    ("external_id", "external id for that role"),
    ("anonymous", "true | false: no signatures, for public buckets [default: false]"),
    ("requester_pays", "true | false [default: false]"),
    ("sse", "s3 | kms | dsse: server-side encryption asked for when writing [default: the bucket's]"),
    ("kms_key", "ARN or id of the KMS key for sse=kms and sse=dsse [default: the account's S3 key]"),
    ("ca_bundle", "PEM file of further certificate authorities"),
    ("requests", "requests at the same time, fewer while the store says SlowDown [default: 64]"),
    ("retries", "times that one request is repeated [default: 10]"),
    ("retry_time", "time from a request's first attempt to its last, below 5 min [default: 180 s]"),
    ("timeout", "wait for the head of an answer, and for each next part of its body [default: 60 s]"),
    ("connect_timeout", "wait for a connection [default: 5 s]"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    S3,
    Kms,
    DoubleKms,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub path_style: Option<bool>,
    pub profile: Option<String>,
    pub role: Option<String>,
    pub external_id: Option<String>,
    pub anonymous: bool,
    pub requester_pays: bool,
    pub encryption: Option<Encryption>,
    pub kms_key: Option<String>,
    pub ca_bundle: Option<PathBuf>,
    pub requests: usize,
    pub retries: usize,
    pub retry_time: Duration,
    pub timeout: Duration,
    pub connect_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            region: None,
            endpoint: None,
            path_style: None,
            profile: None,
            role: None,
            external_id: None,
            anonymous: false,
            requester_pays: false,
            encryption: None,
            kms_key: None,
            ca_bundle: None,
            requests: 64,
            retries: 10,
            retry_time: Duration::from_mins(3),
            timeout: Duration::from_mins(1),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Credentials are refreshed this long before they expire, so a signature outlives the retries of its request.
const LONGEST_RETRY_TIME: Duration = Duration::from_mins(5);

impl StoreOptions {
    /// Sets one option; the error says what would have been right.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let text = || Some(value.to_owned());
        match key {
            "region" => self.region = text(),
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "path_style" => self.path_style = Some(flag(key, value)?),
            "profile" => self.profile = text(),
            "role" => self.role = text(),
            "external_id" => self.external_id = text(),
            "anonymous" => self.anonymous = flag(key, value)?,
            "requester_pays" => self.requester_pays = flag(key, value)?,
            "sse" => {
                self.encryption = Some(match value {
                    "s3" => Encryption::S3,
                    "kms" => Encryption::Kms,
                    "dsse" => Encryption::DoubleKms,
                    _ => return Err(format!("sse={value}: expected s3, kms or dsse")),
                });
            }
            "kms_key" => self.kms_key = text(),
            "ca_bundle" => self.ca_bundle = Some(PathBuf::from(value)),
            "requests" => self.requests = count(key, value)?.max(1),
            "retries" => self.retries = count(key, value)?,
            "retry_time" => {
                self.retry_time = time(key, value)?;
                if self.retry_time >= LONGEST_RETRY_TIME {
                    return Err(format!("retry_time={value}: must stay below 5 min, or a request could outlive its credentials"));
                }
            }
            "timeout" => self.timeout = time(key, value)?,
            "connect_timeout" => self.connect_timeout = time(key, value)?,
            _ => {
                let known: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
                return Err(format!("no option `{key}`; there are: {}", known.join(", ")));
            }
        }
        Ok(())
    }

    /// What must hold between options.
    pub fn check(&self) -> Result<(), String> {
        if self.kms_key.is_some() && !matches!(self.encryption, Some(Encryption::Kms | Encryption::DoubleKms)) {
            return Err("kms_key goes with sse=kms or sse=dsse".to_owned());
        }
        if self.external_id.is_some() && self.role.is_none() {
            return Err("external_id goes with role".to_owned());
        }
        if self.anonymous && (self.role.is_some() || self.profile.is_some()) {
            return Err("anonymous=true leaves nothing for profile or role to sign".to_owned());
        }
        Ok(())
    }
}

fn endpoint(value: &str) -> Result<String, String> {
    match url::Url::parse(value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none() => {
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err("endpoint: expected a URL like https://bucket.vpce-1a2b-s3.eu-central-1.vpce.amazonaws.com, without a user".to_owned()),
    }
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("{key}={value}: expected true or false"))
}

fn count(key: &str, value: &str) -> Result<usize, String> {
    value.parse().map_err(|_| format!("{key}={value}: expected a number"))
}

fn time(key: &str, value: &str) -> Result<Duration, String> {
    parse_duration_setting(value).filter(|time| !time.is_zero()).ok_or_else(|| format!("{key}={value}: expected a time like 60 s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_a_closed_set() {
        let mut options = StoreOptions::default();
        for (key, value) in [("region", "eu-central-1"), ("sse", "kms"), ("kms_key", "k"), ("timeout", "5 s"), ("path_style", "true")] {
            options.set(key, value).unwrap();
        }
        options.check().unwrap();
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert!(options.set("regoin", "x").unwrap_err().contains("region, endpoint"));
        assert!(options.set("retry_time", "5 min").unwrap_err().contains("credentials"));
        assert!(options.set("endpoint", "http://key:secret@host").unwrap_err().find("secret").is_none());
    }

    #[test]
    fn the_manual_has_every_option() {
        let manual = include_str!("../../docs/s3.md");
        assert!(KNOWN.iter().all(|(key, _)| manual.contains(&format!("`{key}`"))));
    }

    #[test]
    fn every_known_option_can_be_set() {
        for (key, _) in KNOWN {
            let tried =
                ["true", "5", "5 s", "kms", "http://127.0.0.1:1"].iter().any(|value| StoreOptions::default().set(key, value).is_ok());
            assert!(tried, "{key}");
        }
    }
}
