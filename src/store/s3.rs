//! One bucket: the client, made once per address from its options.

use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

use super::StoreError;
use super::credentials::{Credentials, sdk_config};
use super::options::{Encryption, StoreOptions};
use super::wire::{Seen, Wire};

/// What this process knows of a bucket beyond reading and writing it.
#[derive(Debug)]
pub struct Bucket {
    pub client: AmazonS3,
    pub name: String,
    pub region: String,
    pub endpoint: Option<String>,
    pub seen: Arc<Seen>,
}

/// Where S3 signs requests of servers that have no regions.
const ANY_REGION: &str = "us-east-1";

impl Bucket {
    pub async fn open(name: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let bad = |reason: String| StoreError::Options { place: format!("s3://{name}"), reason };
        options.check().map_err(bad)?;
        let seen = Arc::new(Seen::default());
        let sdk = sdk_config(options).await;
        let endpoint = options.endpoint.clone().or_else(|| sdk.endpoint_url().map(|url| url.trim_end_matches('/').to_owned()));
        let client_options = client_options(options, endpoint.as_deref()).map_err(bad)?;
        let region = match (&options.region, sdk.region(), &endpoint) {
            (Some(region), ..) => region.clone(),
            (None, Some(region), _) => region.to_string(),
            (None, None, Some(_)) => ANY_REGION.to_owned(),
            (None, None, None) => object_store::aws::resolve_bucket_region(name, &client_options)
                .await
                .map_err(|source| StoreError::Region { bucket: name.to_owned(), source })?,
        };
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: options.retries, retry_timeout: options.retry_time };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_region(&region)
            .with_client_options(client_options)
            .with_retry(retry)
            .with_request_payer(options.requester_pays)
            .with_http_connector(Wire::new(seen.clone(), options.requests, options.timeout));
        if let Some(endpoint) = &endpoint {
            let path_style = options.path_style.unwrap_or(true);
            // A virtual-hosted endpoint has the bucket in its host name already.
            let url = if path_style { endpoint.clone() } else { with_bucket(endpoint, name) };
            builder = builder.with_endpoint(url).with_virtual_hosted_style_request(!path_style);
        } else {
            // Names with dots match no certificate of the form *.s3.amazonaws.com.
            builder = builder.with_virtual_hosted_style_request(!options.path_style.unwrap_or(name.contains('.')));
        }
        for (key, value) in encryption(options) {
            let key: AmazonS3ConfigKey = key.parse().map_err(|error: object_store::Error| bad(error.to_string()))?;
            builder = builder.with_config(key, value);
        }
        builder = if options.anonymous {
            builder.with_skip_signature(true)
        } else {
            let credentials = Credentials::new(options, &sdk, seen.clone()).await.map_err(|error| bad(error.to_string()))?;
            builder.with_credentials(Arc::new(credentials))
        };
        let client = builder.build().map_err(|source| bad(source.to_string()))?;
        Ok(Self { client, name: name.to_owned(), region, endpoint, seen })
    }
}

/// What S3 is asked for when something is written, in object_store's names.
fn encryption(options: &StoreOptions) -> Vec<(&'static str, String)> {
    let kind = match options.encryption {
        None => return Vec::new(),
        Some(Encryption::S3) => "AES256",
        Some(Encryption::Kms) => "aws:kms",
        Some(Encryption::DoubleKms) => "aws:kms:dsse",
    };
    let key = options.kms_key.iter().map(|key| ("aws_sse_kms_key_id", key.clone()));
    std::iter::once(("aws_server_side_encryption", kind.to_owned())).chain(key).collect()
}

fn client_options(options: &StoreOptions, endpoint: Option<&str>) -> Result<ClientOptions, String> {
    // The wire has time limits of its own: one for all of a long download would end sound ones.
    let mut client = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(options.connect_timeout)
        .with_pool_max_idle_per_host(options.requests)
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    if let Some(path) = &options.ca_bundle {
        let pem = std::fs::read(path).map_err(|error| format!("ca_bundle {}: {error}", path.display()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| format!("ca_bundle {}: {error}", path.display()))?;
        if certificates.is_empty() {
            return Err(format!("ca_bundle {} has no certificate", path.display()));
        }
        for certificate in certificates {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

fn with_bucket(endpoint: &str, bucket: &str) -> String {
    endpoint.split_once("://").map_or_else(|| endpoint.to_owned(), |(scheme, host)| format!("{scheme}://{bucket}.{host}"))
}
