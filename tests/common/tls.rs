//! TLS with OpenSSL: an authority for tests, its certificates, and tunnels for peers that have none.
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::process::Process;
use super::{free_address, seconds, wait_until};

/// An authority that nobody else trusts.
pub struct Authority {
    dir: TempDir,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

const EC: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

const CONFIG: &str = "[ca]\ndefault_ca = ours\n[ours]\ndatabase = index.txt\nnew_certs_dir = .\n\
    rand_serial = yes\ndefault_md = sha256\npolicy = any\ncopy_extensions = copy\n\
    unique_subject = no\n[any]\ncommonName = supplied\n";

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let made = Self { dir };
        fs::write(made.dir.path().join("ca.cnf"), CONFIG).expect("configuration");
        fs::write(made.dir.path().join("index.txt"), "").expect("its list");
        // Two of one name would be taken for each other.
        let subject = format!("/CN={:?}", made.dir.path().file_name().unwrap_or_default());
        let args = ["-x509", "-days", "30", "-subj", &subject, "-keyout", "ca.key"];
        made.openssl(&[&["req"], &args[..], &["-out", "ca.pem"], &EC].concat());
        made
    }

    /// Its own certificate.
    pub fn cert(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The same with its key, as a server may show it.
    pub fn own(&self) -> Certificate {
        Certificate { cert: self.cert(), key: self.dir.path().join("ca.key") }
    }

    /// A certificate called `name` for `names` (`DNS:a.example,IP:127.0.0.1`), good for a day.
    pub fn certify(&self, name: &str, names: &str) -> Certificate {
        self.issue(name, names, &["-days", "1"])
    }

    /// As [`Self::certify`], and over for long.
    pub fn certify_expired(&self, name: &str, names: &str) -> Certificate {
        let then = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"];
        self.issue(name, names, &then)
    }

    fn issue(&self, name: &str, names: &str, when: &[&str]) -> Certificate {
        let [key, csr, cert] = ["key", "csr", "pem"].map(|end| format!("{name}.{end}"));
        let (subject, names) = (format!("/CN={name}"), format!("subjectAltName={names}"));
        let asked = ["-keyout", &key, "-out", &csr, "-subj", &subject, "-addext", &names];
        self.openssl(&[&["req"], &EC[..], &asked].concat());
        let by = ["-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-notext"];
        let signed = ["-in", &csr, "-out", &cert];
        self.openssl(&[&["ca", "-batch"], &by[..], &signed, when].concat());
        let dir = self.dir.path();
        Certificate { cert: dir.join(cert), key: dir.join(key) }
    }

    fn openssl(&self, args: &[&str]) {
        let mut openssl = Command::new("openssl");
        openssl.args(args).current_dir(self.dir.path());
        Process::spawn(self.dir.path(), "openssl", "openssl", &mut openssl).succeed(seconds(30));
    }
}

impl Certificate {
    /// Puts this one where `other` is: the key first, as a renewal that is half done.
    pub fn replace(&self, other: &Self) {
        for (from, to) in [(&self.key, &other.key), (&self.cert, &other.cert)] {
            let part = to.with_extension("part");
            fs::copy(from, &part).expect("copy");
            fs::rename(&part, to).expect("rename");
        }
    }

    /// A table of `[[rtmps.certificate]]`.
    pub fn table(&self) -> String {
        let (cert, key) = (self.cert.display(), self.key.display());
        format!("[[rtmps.certificate]]\ncert = \"{cert}\"\nkey = \"{key}\"\n")
    }
}

/// Lines for a server that listens on `address` and shows `certificates`.
pub fn listener(address: SocketAddr, certificates: &[&Certificate]) -> String {
    let tables: String = certificates.iter().map(|one| one.table()).collect();
    format!("[rtmps]\nenabled = true\nlisten = \"{address}\"\n{tables}")
}

/// The name of the certificate that `address` shows to who asks for `name`.
pub fn shown(address: SocketAddr, name: &str) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address.to_string(), "-servername", name]);
    let said = openssl.stdin(Stdio::null()).stderr(Stdio::null()).output().expect("openssl");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let subject = said.lines().find_map(|line| line.trim().strip_prefix("subject="));
    subject.unwrap_or_default().trim_start_matches("CN").trim_matches([' ', '=']).to_owned()
}

/// socat between a plain socket and one with TLS. Each connection is a process of its own, which
/// ends with it.
pub struct Tunnel {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl Tunnel {
    /// For peers without TLS, to `server`.
    #[track_caller]
    pub fn to(dir: &Path, server: SocketAddr) -> Self {
        let address = free_address();
        Self::start(
            dir,
            address,
            &format!("TCP-LISTEN:{},bind=127.0.0.1,reuseaddr,fork", address.port()),
            &format!("OPENSSL:{server},verify=0"),
        )
    }

    /// For peers with TLS, to `server` that has none.
    #[track_caller]
    pub fn before(dir: &Path, server: SocketAddr, shown: &Certificate) -> Self {
        let address = free_address();
        let (cert, key) = (shown.cert.display(), shown.key.display());
        let listen = format!("OPENSSL-LISTEN:{},bind=127.0.0.1,reuseaddr,fork", address.port());
        let listen = format!("{listen},cert={cert},key={key},verify=0");
        Self::start(dir, address, &listen, &format!("TCP:{server}"))
    }

    #[track_caller]
    fn start(dir: &Path, address: SocketAddr, from: &str, to: &str) -> Self {
        let mut socat = Command::new("socat");
        socat.args([from, to]);
        let process = Process::spawn(dir, "socat", "socat", &mut socat);
        wait_until("socat listens", seconds(10), || TcpStream::connect(address).is_ok());
        Self { address, _process: process }
    }
}
