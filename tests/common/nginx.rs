//! nginx with its RTMP module, as a master and as a slave.
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::process::Process;
use super::{free_address, seconds, wait_until};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

/// A running nginx-rtmp with one application, `live`.
pub struct Nginx {
    address: SocketAddr,
    process: Process,
}

impl Nginx {
    /// Starts one that pushes what is published to `push`, if any.
    #[track_caller]
    pub fn start(dir: &Path, push: Option<SocketAddr>) -> Self {
        assert!(Path::new(MODULE).exists(), "install libnginx-mod-rtmp (cargo xtask test does)");
        let address = free_address();
        let prefix = dir.join(format!("nginx-{}", address.port()));
        std::fs::create_dir_all(prefix.join("logs")).expect("directory");
        let push = push.map_or_else(String::new, |to| format!("push rtmp://{to}/live;"));
        let conf = format!(
            "load_module {MODULE}; daemon off; master_process off; pid nginx.pid;\n\
             error_log stderr info; events {{}}\n\
             rtmp {{ access_log off; server {{ listen {address}; chunk_size 4096;\n\
             application live {{ live on; wait_key on; publish_notify on; meta copy; {push} }} }} }}\n"
        );
        let file = prefix.join("nginx.conf");
        std::fs::write(&file, conf).expect("configuration");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&prefix).arg("-c").arg(&file).args(["-e", "stderr"]);
        let process = Process::spawn(dir, "nginx", "nginx and libnginx-mod-rtmp", &mut command);
        wait_until("nginx listens", seconds(10), || TcpStream::connect(address).is_ok());
        Self { address, process }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of a stream on it.
    pub fn url(&self, stream: &str) -> String {
        format!("rtmp://{}/live/{stream}", self.address)
    }

    /// How many `play` commands it has taken.
    pub fn plays(&self) -> usize {
        self.process.log().matches(" play: ").count()
    }
}
