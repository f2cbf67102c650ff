//! A server of DNS that says what servers say: no, half of it, too much, nonsense.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, MessageType};
use hickory_resolver::proto::rr::rdata::{A, CNAME, SRV};
use hickory_resolver::proto::rr::{Name as DnsName, Record};

use super::*;

/// Addresses of one name; more than fit into a datagram.
const MANY: u8 = 200;

/// A server, and how often it was asked over TCP.
struct Server {
    address: SocketAddr,
    over_tcp: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        let (udp, address, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = udp.local_addr().unwrap();
            // Somebody else may have it.
            if let Ok(tcp) = TcpListener::bind(address) {
                break (udp, address, tcp);
            }
        };
        let over_tcp = Arc::<AtomicUsize>::default();
        let asked = Arc::clone(&over_tcp);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((n, from)) = udp.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..n]).unwrap();
                let reply = reply(&question, false);
                _ = udp.send_to(&reply, from);
            }
        });
        std::thread::spawn(move || {
            for socket in tcp.incoming() {
                asked.fetch_add(1, Ordering::Relaxed);
                _ = serve(socket.unwrap());
            }
        });
        Self { address, over_tcp }
    }

    async fn ask(&self, name: &str) -> Result<Answer, String> {
        let how = if name.starts_with('_') { Discovery::Srv } else { Discovery::Dns };
        let name = Name { how, host: name.to_owned(), port: 1935 };
        Arc::new(Resolver::default()).look_up(&name, Some(self.address)).await
    }

    /// The addresses of the one host that `name` is.
    async fn host(&self, name: &str) -> (Result<usize, String>, u64) {
        let answer = self.ask(name).await.unwrap();
        assert_eq!(answer.hosts.len(), 1, "{answer:?}");
        let host = answer.hosts.into_iter().next().unwrap();
        (host.v4.map(|ips| ips.len()), answer.ttl.as_secs())
    }
}

/// RFC 1035 section 4.2.2: two bytes of length first.
fn serve(mut socket: std::net::TcpStream) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    loop {
        let mut length = [0; 2];
        socket.read_exact(&mut length)?;
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        socket.read_exact(&mut question)?;
        let reply = reply(&Message::from_vec(&question).unwrap(), true);
        socket.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes())?;
        socket.write_all(&reply)?;
    }
}

fn address(name: &DnsName, last: u8, ttl: u32) -> Record {
    Record::from_rdata(name.clone(), ttl, RData::A(A(Ipv4Addr::new(10, 0, 0, last))))
}

fn add(reply: &mut Message, record: Record) {
    reply.add_answer(record);
}

fn reply(question: &Message, over_tcp: bool) -> Vec<u8> {
    let query = question.queries[0].clone();
    let (name, kind) = (query.name().clone(), query.query_type());
    let mut reply = question.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    let host = name.to_ascii();
    match (host.trim_end_matches('.'), kind) {
        ("garbage.test", _) => return vec![0xff; 40],
        ("broken.test", _) => reply.metadata.response_code = ResponseCode::ServFail,
        ("refused.test", _) => reply.metadata.response_code = ResponseCode::Refused,
        ("half.test", RecordType::AAAA) => reply.metadata.response_code = ResponseCode::ServFail,
        ("half.test", RecordType::A) => add(&mut reply, address(&name, 1, 30)),
        ("many.test", RecordType::A) if over_tcp => {
            (0..MANY).for_each(|last| add(&mut reply, address(&name, last, 30)));
        }
        ("many.test", RecordType::A) => reply.metadata.truncation = true,
        ("alias.test", RecordType::A) => {
            let target = DnsName::from_str("farm.test.").unwrap();
            let alias = Record::from_rdata(name, 7, RData::CNAME(CNAME(target.clone())));
            add(&mut reply, alias);
            (0..5).for_each(|last| add(&mut reply, address(&target, last, 300)));
        }
        ("short.test", RecordType::A) => add(&mut reply, address(&name, 1, 0)),
        ("long.test", RecordType::A) => add(&mut reply, address(&name, 1, 0x7fff_ffff)),
        ("_rtmp._tcp.test", RecordType::SRV) => {
            for (port, target) in [(1, "short.test."), (2, "broken.test."), (0, "long.test.")] {
                let target = DnsName::from_str(target).unwrap();
                let service = SRV::new(0, 0, port, target);
                add(&mut reply, Record::from_rdata(name.clone(), 60, RData::SRV(service)));
            }
        }
        ("short.test" | "long.test" | "many.test" | "alias.test", _) => {}
        _ => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    reply.to_vec().unwrap()
}

#[tokio::test]
async fn what_a_server_says_is_taken_for_what_it_is() {
    let server = Server::start();
    for (name, code) in [("broken.test", "Server Failure"), ("refused.test", "Query Refused")] {
        let (v4, _) = server.host(name).await;
        let why = v4.expect_err(name);
        assert!(why.contains(code), "{name}: {why}");
    }
    // That there is nothing is an answer; whoever keeps the addresses holds it for a mistake.
    assert_eq!(server.host("nobody.test").await.0, Ok(0));
    let half = server.ask("half.test").await.unwrap().hosts;
    assert!(half[0].v4.as_ref().is_ok_and(|ips| ips.len() == 1) && half[0].v6.is_err(), "{half:?}");
    assert_eq!(server.over_tcp.load(Ordering::Relaxed), 0);
    assert_eq!(server.host("many.test").await.0, Ok(MANY.into()), "what is cut off comes by TCP");
    assert_eq!(server.over_tcp.load(Ordering::Relaxed), 1);
    // An alias lives as long as the shorter of its records.
    let (v4, ttl) = server.host("alias.test").await;
    assert_eq!(v4, Ok(5));
    assert!((1..=7).contains(&ttl), "{ttl}");
    assert_eq!(server.host("short.test").await, (Ok(1), 0));
    let (v4, ttl) = server.host("long.test").await;
    assert_eq!(v4, Ok(1));
    assert!(ttl > 0, "a long life is bounded where it is used, not here: {ttl}");
}

#[tokio::test]
async fn a_service_has_the_hosts_that_there_are() {
    let answer = Server::start().ask("_rtmp._tcp.test").await.unwrap();
    let hosts = answer.hosts.iter().map(|host| (host.name.as_str(), host.port, host.v4.is_ok()));
    let want = [("broken.test", 2, false), ("short.test", 1, true)];
    assert_eq!(hosts.collect::<Vec<_>>(), want, "a service without a port is none");
    assert_eq!(answer.ttl, Duration::ZERO);
    let none = Server::start().ask("_none._tcp.test").await.unwrap();
    assert!(none.hosts.is_empty(), "{none:?}");
}

#[tokio::test]
async fn nonsense_and_silence_are_no_answer() {
    let server = Server::start();
    assert!(server.host("garbage.test").await.0.is_err());
}
