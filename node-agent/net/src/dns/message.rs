//! Between wire messages and the zone. Pure.

use galley_node_plan::net::zone::{self, Data, Kind, Lookup, TTL, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::upstream::Transport;

/// The payload that is safe from fragmentation on every path (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// The payload of clients without EDNS (RFC 1035).
const SMALL_PAYLOAD: u16 = 512;
/// ExternalNames that point at ExternalNames: longer chains are loops.
const ALIASES: usize = 8;

/// A question that is worth an answer.
pub struct Request {
    message: Message,
    bytes: Vec<u8>,
}

/// What to do with it.
pub enum Resolution {
    /// Send this.
    Answer(Answer),
    /// An alias leads out of the cluster: add what the upstream resolvers know of this name, then send.
    Chase(Answer, Name),
    /// Not the cluster's.
    Forward,
}

/// An answer in the making.
pub struct Answer {
    message: Message,
    question: Query,
    payload: u16,
}

impl Request {
    /// `None` when no answer may be sent: an answer answered would make two servers talk for ever.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        (message.metadata.message_type == MessageType::Query).then(|| Self { message, bytes: bytes.to_vec() })
    }

    /// As it came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The answer when nobody upstream answered.
    pub fn server_failure(&self) -> Option<Vec<u8>> {
        self.refusal(ResponseCode::ServFail).to_vec().ok()
    }

    fn refusal(&self, code: ResponseCode) -> Message {
        let mut message = Message::error_msg(self.message.metadata.id, self.message.metadata.op_code, code);
        message.metadata.recursion_desired = self.message.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.queries.clone_from(&self.message.queries);
        message
    }
}

fn kind(record_type: RecordType) -> Kind {
    match record_type {
        RecordType::A => Kind::A,
        RecordType::ANY => Kind::Any,
        RecordType::CNAME => Kind::Cname,
        RecordType::NS => Kind::Ns,
        RecordType::PTR => Kind::Ptr,
        RecordType::SOA => Kind::Soa,
        RecordType::SRV => Kind::Srv,
        RecordType::TXT => Kind::Txt,
        _ => Kind::Other,
    }
}

fn plain(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

fn record(record: &zone::Record, question: &Query) -> Option<Record> {
    // Clients that mix upper and lower case against forgery compare the name with what they sent.
    let name = if plain(question.name()) == record.name { question.name().clone() } else { absolute(&record.name)? };
    let data = match &record.data {
        Data::A(ip) => RData::A(A(*ip)),
        Data::Cname(target) => RData::CNAME(CNAME(absolute(target)?)),
        Data::Ns(target) => RData::NS(NS(absolute(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(absolute(target)?)),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, absolute(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
    };
    Some(Record::from_rdata(name, TTL, data))
}

/// The start of authority: tells resolvers how long 'no such name' holds.
fn authority(zone: &Zone) -> Option<Record> {
    let master = absolute(&zone.name_server())?;
    let mailbox = absolute(&format!("hostmaster.{}", zone.domain()))?;
    // The zone has no secondaries, so that the serial and the transfer times mean nothing.
    let soa = SOA::new(master, mailbox, 1, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(absolute(zone.domain())?, TTL, RData::SOA(soa)))
}

/// Decides what a request gets. Without a zone (the API server was not reached yet) nothing may be said about names of the
/// cluster's `domain`; others are resolved, so that pods which run already keep reaching the outside.
pub fn resolve(request: &Request, zone: Option<&Zone>, domain: &str) -> Resolution {
    let refuse = |code, question: Option<&Query>| {
        let question = question.cloned().unwrap_or_default();
        Resolution::Answer(Answer { message: request.refusal(code), question, payload: SMALL_PAYLOAD })
    };
    if request.message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp, None);
    }
    let [question] = request.message.queries.as_slice() else { return refuse(ResponseCode::FormErr, None) };
    if question.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused, Some(question));
    }
    let mut name = plain(question.name());
    let Some(zone) = zone else {
        let inside = name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        return if inside { refuse(ResponseCode::ServFail, Some(question)) } else { Resolution::Forward };
    };
    let mut answer = Answer::new(request, question);
    for _ in 0..ALIASES {
        let (answers, additional) = match zone.lookup(&name, kind(question.query_type())) {
            Lookup::Forward if answer.message.answers.is_empty() => return Resolution::Forward,
            Lookup::Forward => {
                let Some(target) = absolute(&name) else { break };
                return Resolution::Chase(answer, target);
            }
            Lookup::NoName => {
                answer.message.metadata.response_code = ResponseCode::NXDomain;
                answer.message.authorities.extend(authority(zone));
                return Resolution::Answer(answer);
            }
            Lookup::Found { answers, additional } => (answers, additional),
        };
        answer.add(&answers, &additional, request.message.metadata.id);
        let alias = answers.iter().find_map(|record| match &record.data {
            Data::Cname(target) if question.query_type() != RecordType::CNAME => Some(target.clone()),
            _ => None,
        });
        match alias {
            Some(target) => name = target,
            None => {
                if question.query_type() == RecordType::SOA && name == zone.domain() {
                    answer.message.answers.extend(authority(zone));
                } else if answers.is_empty() {
                    answer.message.authorities.extend(authority(zone));
                }
                return Resolution::Answer(answer);
            }
        }
    }
    refuse(ResponseCode::ServFail, Some(question))
}

impl Answer {
    fn new(request: &Request, question: &Query) -> Self {
        let mut message = Message::response(request.message.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = request.message.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.authoritative = true;
        message.add_query(question.clone());
        let mut payload = SMALL_PAYLOAD;
        if let Some(edns) = &request.message.edns {
            payload = edns.max_payload().clamp(SMALL_PAYLOAD, PAYLOAD);
            let mut ours = Edns::new();
            ours.set_max_payload(PAYLOAD);
            message.edns = Some(ours);
        }
        Self { message, question: question.clone(), payload }
    }

    /// Adds records, starting at one that `turn` chooses: clients take the first, so that each gets its share.
    fn add(&mut self, answers: &[zone::Record], additional: &[zone::Record], turn: u16) {
        let mut records: Vec<Record> = answers.iter().filter_map(|answer| record(answer, &self.question)).collect();
        if !records.is_empty() {
            let start = usize::from(turn) % records.len();
            records.rotate_left(start);
        }
        self.message.answers.extend(records);
        self.message.additionals.extend(additional.iter().filter_map(|answer| record(answer, &self.question)));
    }

    /// The type that was asked for.
    pub fn record_type(&self) -> RecordType {
        self.question.query_type()
    }

    /// Adds what the upstream resolvers said about an alias' target. Nothing is a failure, which clients retry.
    pub fn add_chased(&mut self, found: Option<(ResponseCode, Vec<Record>)>) {
        match found {
            Some((code, records)) => {
                self.message.metadata.response_code = code;
                self.message.answers.extend(records);
            }
            None => self.message.metadata.response_code = ResponseCode::ServFail,
        }
        self.message.metadata.authoritative = false;
    }

    /// The bytes to send. What is too long for a datagram is cut, and the client comes back over TCP.
    pub fn encode(&self, transport: Transport) -> Option<Vec<u8>> {
        let bytes = self.message.to_vec().ok()?;
        match transport {
            Transport::Udp if bytes.len() > self.payload.into() => self.message.truncate().to_vec().ok(),
            Transport::Udp | Transport::Tcp => Some(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::json;

    use super::*;

    fn zone(pods: u8) -> Zone {
        let service = |name: &str, spec| -> Arc<Service> {
            let metadata = json!({ "namespace": "default", "name": name });
            Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap())
        };
        let endpoints: Vec<_> = (0..pods).map(|pod| json!({ "addresses": [format!("10.244.1.{pod}")] })).collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "db-1", "labels": { "kubernetes.io/service-name": "db" } },
            "addressType": "IPv4", "ports": [], "endpoints": endpoints,
        }))
        .unwrap();
        let services = [
            service("web", json!({ "clusterIP": "10.96.1.1" })),
            service("db", json!({ "clusterIP": "None" })),
            service("away", json!({ "type": "ExternalName", "externalName": "example.org" })),
            service("loop", json!({ "type": "ExternalName", "externalName": "loop.default.svc.cluster.local" })),
        ];
        let cidr = "10.96.0.0/16".parse().unwrap();
        Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), cidr, &services, &[Arc::new(slice)])
    }

    fn request(name: &str, record_type: RecordType) -> Request {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
        Request::parse(&message.to_vec().unwrap()).unwrap()
    }

    fn answer(request: &Request, zone: Option<&Zone>) -> Option<Message> {
        match resolve(request, zone, "cluster.local") {
            Resolution::Answer(answer) => Some(Message::from_vec(&answer.encode(Transport::Udp).unwrap()).unwrap()),
            Resolution::Chase(..) | Resolution::Forward => None,
        }
    }

    #[test]
    fn the_name_comes_back_as_it_was_asked() {
        let request = request("wEb.default.SVC.cluster.local.", RecordType::A);
        let answer = answer(&request, Some(&zone(0))).unwrap();
        assert_eq!(answer.answers[0].name.to_ascii(), "wEb.default.SVC.cluster.local.");
        assert_eq!(answer.metadata.id, request.message.metadata.id);
    }

    #[test]
    fn a_name_without_such_a_record_is_not_a_missing_name() {
        let answer = answer(&request("web.default.svc.cluster.local.", RecordType::AAAA), Some(&zone(0))).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!((answer.answers.len(), answer.authorities.len()), (0, 1));
    }

    #[test]
    fn what_is_too_long_for_a_datagram_is_cut() {
        let (request, zone) = (request("db.default.svc.cluster.local.", RecordType::A), zone(200));
        let cut = answer(&request, Some(&zone)).unwrap();
        assert!(cut.metadata.truncation && cut.to_vec().unwrap().len() <= 512);
        let Resolution::Answer(whole) = resolve(&request, Some(&zone), "cluster.local") else { panic!("forwarded") };
        let whole = Message::from_vec(&whole.encode(Transport::Tcp).unwrap()).unwrap();
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 200));
    }

    #[test]
    fn aliases_lead_out_and_loops_end() {
        let away = resolve(&request("away.default.svc.cluster.local.", RecordType::A), Some(&zone(0)), "cluster.local");
        assert!(matches!(away, Resolution::Chase(_, target) if target.to_ascii() == "example.org."));
        let end = answer(&request("loop.default.svc.cluster.local.", RecordType::A), Some(&zone(0))).unwrap();
        assert_eq!(end.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn before_the_cluster_is_known_only_its_own_names_fail() {
        let own = answer(&request("web.default.svc.cluster.local.", RecordType::A), None).unwrap();
        assert_eq!(own.metadata.response_code, ResponseCode::ServFail);
        assert!(answer(&request("example.org.", RecordType::A), None).is_none());
        assert!(answer(&request("notcluster.local.", RecordType::A), None).is_none());
    }

    #[test]
    fn an_answer_is_never_answered() {
        let bytes = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert!(Request::parse(&bytes).is_none());
    }
}
