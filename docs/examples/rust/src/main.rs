//! Gets a data key from AWS KMS inside a Nitro Enclave, with an attestation document. See docs/attest.md.
//!
//! KEY_ID is the KMS key, AWS_REGION its region; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
//! are the credentials. The parent serves KMS on vsock port 8000. With KMS_ENDPOINT=http://localhost:8000 it is
//! neb's stand-in; for AWS, the endpoint is https://kms.REGION.amazonaws.com:8000, with that name in /etc/hosts
//! as 127.0.0.1. The image needs the certificates of the system (/etc/ssl/certs) for both.
use std::{env, error::Error, io, net::TcpListener, thread};

use aes::cipher::{block_padding::Pkcs7, BlockDecryptMut, KeyIvInit};
use aws_nitro_enclaves_nsm_api::{api, driver};
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyEncryptionMechanism, RecipientInfo};
use aws_smithy_http_client::{tls, Builder};
use rsa::{pkcs8::EncodePublicKey, sha2::Sha256, Oaep, RsaPrivateKey};
use serde_bytes::ByteBuf;
use vsock::VsockStream;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("got a data key of {} bytes", runtime.block_on(data_key())?.len());
    Ok(())
}

async fn data_key() -> Result<Vec<u8>> {
    let private = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048)?;
    let document = attest(private.to_public_key().to_public_key_der()?.into_vec())?;
    forward(8000)?;
    let http = Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring));
    let credentials = Credentials::new(
        env::var("AWS_ACCESS_KEY_ID")?,
        env::var("AWS_SECRET_ACCESS_KEY")?,
        env::var("AWS_SESSION_TOKEN").ok(),
        None,
        "environment",
    );
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.build_https())
        .region(Region::new(env::var("AWS_REGION")?))
        .credentials_provider(credentials)
        .endpoint_url(env::var("KMS_ENDPOINT")?)
        .build();
    let answer = aws_sdk_kms::Client::from_conf(config)
        .generate_data_key()
        .key_id(env::var("KEY_ID")?)
        .key_spec(DataKeySpec::Aes256)
        .recipient(
            RecipientInfo::builder()
                .key_encryption_algorithm(KeyEncryptionMechanism::RsaesOaepSha256)
                .attestation_document(Blob::new(document))
                .build(),
        )
        .send()
        .await
        .map_err(|e| e.into_service_error())?;
    unwrap(&private, answer.ciphertext_for_recipient.ok_or("no CiphertextForRecipient")?.as_ref())
}

/// Asks the Nitro Secure Module for a document.
fn attest(public_key: Vec<u8>) -> Result<Vec<u8>> {
    let module = driver::nsm_init();
    let request = api::Request::Attestation {
        public_key: Some(ByteBuf::from(public_key)),
        user_data: None,
        nonce: None,
    };
    let answer = driver::nsm_process_request(module, request);
    driver::nsm_exit(module);
    match answer {
        api::Response::Attestation { document } => Ok(document),
        other => Err(format!("the Nitro Secure Module answered {other:?}").into()),
    }
}

/// Connects a local TCP port to the same vsock port of the parent.
fn forward(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let parent = VsockStream::connect_with_cid_port(3, port.into()).expect("the parent's port");
            let (mut from, mut to) = (client.try_clone().unwrap(), parent.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut from, &mut to));
            let (mut from, mut to) = (parent, client);
            thread::spawn(move || io::copy(&mut from, &mut to));
        }
    });
    Ok(())
}

/// Decrypts a CMS EnvelopedData (RFC 5652) as KMS makes it. Its OCTET STRINGs, in their order, are the
/// encrypted key, the initial vector, and the parts of the content.
fn unwrap(private: &RsaPrivateKey, message: &[u8]) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    octet_strings(message, &mut found).ok_or("the answer of KMS is not BER")?;
    let [wrapped, initial, content @ ..] = found.as_slice() else {
        return Err("the answer of KMS has too few parts".into());
    };
    let key = private.decrypt(Oaep::new::<Sha256>(), wrapped)?;
    let decryptor = cbc::Decryptor::<aes::Aes256>::new_from_slices(&key, initial)?;
    let text = decryptor.decrypt_padded_vec_mut::<Pkcs7>(&content.concat());
    text.map_err(|_| "the answer of KMS has an invalid padding".into())
}

/// Collects the OCTET STRINGs in BER, where a length may be indefinite: most crates read DER only.
fn octet_strings<'a>(mut ber: &'a [u8], found: &mut Vec<&'a [u8]>) -> Option<()> {
    while let [tag, first, rest @ ..] = ber {
        ber = rest;
        let mut length = *first as usize;
        if length == 0x80 {
            continue; // until two zero bytes, which are skipped as an empty value
        }
        if length > 0x80 {
            let size = length & 0x7f;
            length = ber.get(..size.min(3))?.iter().fold(0, |n, b| n << 8 | *b as usize);
            ber = ber.get(size..)?;
        }
        let value = ber.get(..length)?;
        match tag {
            0x04 => found.push(value),
            _ if tag & 0x20 != 0 => octet_strings(value, found)?,
            _ => {}
        }
        ber = &ber[length..];
    }
    Some(())
}
