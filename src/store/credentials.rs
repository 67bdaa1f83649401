//! Credentials: AWS's own chain (environment, profile, web identity, the task's role, the machine's), kept and refreshed here.
//!
//! The chain is that of the AWS SDK, because object_store's misses profiles and the task endpoint's plain token. What it finds is
//! kept until [`MARGIN`] before it expires, longer than any request is retried, so that no signature ends on its way; a store that
//! says that the session has ended has it fetched anew at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

use super::options::StoreOptions;
use super::wire::Seen;

/// Credentials are fetched anew when they would last no longer.
const MARGIN: Duration = Duration::from_mins(5);
/// A source that hands out credentials shorter than the margin is not asked more often.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error("no credentials: {0}")]
pub struct NoCredentials(String);

/// The chain's settings, from the environment and the profile.
pub async fn sdk_config(options: &StoreOptions) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    loader.load().await
}

#[derive(Debug)]
struct Kept {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
    fetched: SystemTime,
}

pub struct Credentials {
    chain: SharedCredentialsProvider,
    kept: Mutex<Option<Kept>>,
    seen: Arc<Seen>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    pub async fn new(options: &StoreOptions, sdk: &SdkConfig, seen: Arc<Seen>) -> Result<Self, NoCredentials> {
        let base = sdk.credentials_provider().ok_or_else(|| NoCredentials("the AWS chain is empty".to_owned()))?;
        let chain = match &options.role {
            Some(role) => {
                let mut assume = AssumeRoleProvider::builder(role).session_name("silversmith").configure(sdk);
                if let Some(id) = &options.external_id {
                    assume = assume.external_id(id);
                }
                SharedCredentialsProvider::new(assume.build_from_provider(base).await)
            }
            None => base,
        };
        Ok(Self { chain, kept: Mutex::new(None), seen })
    }

    async fn fetch(&self) -> Result<Kept, NoCredentials> {
        let found = self.chain.provide_credentials().await.map_err(|error| NoCredentials(super::fault::with_causes(&error)))?;
        let credential = AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        };
        Ok(Kept { credential: Arc::new(credential), expires: found.expiry(), fetched: SystemTime::now() })
    }
}

impl Kept {
    fn lasts(&self, margin: Duration) -> bool {
        self.expires.is_none_or(|at| at > SystemTime::now() + margin)
    }

    fn is_recent(&self) -> bool {
        self.fetched.elapsed().is_ok_and(|age| age < AGAIN_AFTER)
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut kept = self.kept.lock().await;
        let ended = self.seen.session_ended.swap(false, Ordering::Relaxed);
        if let Some(kept) = kept.as_ref().filter(|kept| !ended && (kept.lasts(MARGIN) || kept.is_recent() && kept.lasts(Duration::ZERO))) {
            return Ok(kept.credential.clone());
        }
        match self.fetch().await {
            Ok(new) => Ok(kept.insert(new).credential.clone()),
            // What is at hand still serves for a while; the next request asks again.
            Err(error) => match kept.as_ref().filter(|kept| !ended && kept.lasts(Duration::ZERO)) {
                Some(kept) => {
                    tracing::warn!(%error, "credentials could not be refreshed yet");
                    Ok(kept.credential.clone())
                }
                None => Err(object_store::Error::Generic { store: "S3", source: Box::new(error) }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use aws_credential_types::provider::future;

    use super::*;

    /// Hands out key n on the n-th call, lasting as long as it is told.
    #[derive(Debug)]
    struct Numbered(AtomicU32, Duration);

    impl ProvideCredentials for Numbered {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            let expires = SystemTime::now() + self.1;
            let key = format!("AKIA{number}");
            future::ProvideCredentials::ready(Ok(aws_credential_types::Credentials::new(key, "secret", None, Some(expires), "test")))
        }
    }

    fn lasting(time: Duration) -> Credentials {
        let chain = SharedCredentialsProvider::new(Numbered(AtomicU32::new(0), time));
        Credentials { chain, kept: Mutex::new(None), seen: Arc::default() }
    }

    #[tokio::test]
    async fn credentials_are_kept_until_five_minutes_before_their_end() {
        let long = lasting(Duration::from_hours(1));
        assert_eq!(long.get_credential().await.unwrap().key_id, "AKIA1");
        assert_eq!(long.get_credential().await.unwrap().key_id, "AKIA1");
        long.seen.session_ended.store(true, Ordering::Relaxed);
        assert_eq!(long.get_credential().await.unwrap().key_id, "AKIA2");
        let short = lasting(Duration::from_secs(299));
        assert_eq!(short.get_credential().await.unwrap().key_id, "AKIA1");
        assert_eq!(short.get_credential().await.unwrap().key_id, "AKIA1", "not asked again at once");
        short.kept.lock().await.as_mut().unwrap().fetched -= AGAIN_AFTER;
        assert_eq!(short.get_credential().await.unwrap().key_id, "AKIA2");
    }

    #[tokio::test]
    async fn nothing_secret_is_shown() {
        let shown = format!("{:?}", lasting(Duration::from_hours(1)));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
