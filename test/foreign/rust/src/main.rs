// Verifies an attestation document with the crate aws-nitro-enclaves-attestation: DOCUMENT ROOT.
// ROOT is DER. The status is 0 if the document is accepted.
use aws_nitro_enclaves_attestation::NitroAdDoc;

fn main() {
    let read = |n| std::fs::read(std::env::args().nth(n).expect("usage: DOCUMENT ROOT")).unwrap();
    let now = std::time::SystemTime::now();
    let seconds = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    match NitroAdDoc::from_bytes(&read(1), &read(2), seconds) {
        Ok(document) => println!("{}", document.to_json().unwrap()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
