//! What an instance asks of its network: the JSON that SDKs publish on the topic `network:<hostname>`, checked.
//!
//! Whatever is wrong is an error with the name of the field. Carrying a request out, and whether an address is free,
//! belongs in `reactor`; an error never answers the request's barrier, since SDKs take that for success or panic:
//! whoever reads it ends the instance.
//!
//! Reading is as generous as Go's decoder, for which the messages were made: keys in any case, unknown ones ignored
//! (but named in [`Request::warnings`]), `null` for what is absent. Numbers that make no sense are refused, though.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;
use testground_model::name::InstanceName;
use testground_model::shape::LinkShape;
use thiserror::Error;

use crate::address::{AddressError, CONTROL_NETWORK};
use crate::plan::Wishes;
use fields::Fields;

mod fields;

/// What an instance asks for one of its networks.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The data network's name.
    pub network: String,
    /// Whether the interface is up. Go SDK callers that leave it out disconnect themselves.
    pub enable: bool,
    /// The interface's IPv4 address from now on; its prefix length stays that of the network.
    pub ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// The shapes of what the instance sends.
    pub wishes: Wishes,
    /// The state to signal when all is in force.
    pub callback: Option<String>,
    /// How many signals of that state the instance waits for, where it says so.
    pub callback_target: Option<u64>,
    /// Where the instance can go beyond its data networks.
    pub routing: Routing,
    /// What is odd about the message, though nothing that it would be refused for.
    pub warnings: Vec<String>,
}

/// Where an instance can go beyond its data networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Routing {
    /// To the lab's services and nowhere else.
    #[default]
    DenyAll,
    /// Anywhere that the control network leads to.
    AllowAll,
}

/// Why a request can't be honoured.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RequestError {
    /// The message isn't JSON, or isn't an object.
    #[error("the network request is unreadable: {0}")]
    Unreadable(String),
    /// A field's value is not allowed.
    #[error("`{field}` is {value}: {allowed}")]
    Field {
        /// The field, as in `rules[0].subnet`.
        field: String,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// No network has this name.
    #[error("unknown network `{name}`{}; known: {}", hint(.nearest), .known.join(", "))]
    UnknownNetwork {
        /// The name.
        name: String,
        /// Those that exist.
        known: Vec<String>,
        /// The one that may be meant.
        nearest: Option<String>,
    },
    /// The address can't be had.
    #[error("`{field}`: {error}")]
    Address {
        /// `IPv4` or `IPv6`.
        field: &'static str,
        /// Why; in the text, and so no source.
        error: AddressError,
    },
    /// Somebody else has the address.
    #[error("`{field}`: {address} on network `{network}` is taken by {holder}")]
    Taken {
        /// `IPv4` or `IPv6`.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// The network.
        network: String,
        /// Who has it.
        holder: InstanceName,
    },
    /// The network has no IPv6.
    #[error("`IPv6` is {address}: network `{network}` has no IPv6 subnet")]
    NoIpv6 {
        /// The address.
        address: Ipv6Addr,
        /// The network.
        network: String,
    },
    /// The machine refused.
    #[error("the network could not be changed: {0}")]
    Refused(String),
}

// === impl Request ===

impl Request {
    /// Reads a published message.
    pub fn read(payload: &[u8]) -> Result<Request, RequestError> {
        let value: Value =
            serde_json::from_slice(payload).map_err(|e| RequestError::Unreadable(e.to_string()))?;
        let mut warnings = Vec::new();
        let mut fields = Fields::new("", value, &mut warnings)?;

        let network = fields.text("network")?.unwrap_or_default();
        let enable = fields.flag("enable")?;
        let ipv4 = fields.address("IPv4")?;
        let ipv6 = fields.address("IPv6")?;
        let default = match fields.take("default") {
            Some(value) => shape(Fields::new("default", value, fields.warnings)?)?,
            None => LinkShape::default(),
        };
        let mut rules = Vec::new();
        for (index, value) in fields.list("rules")?.into_iter().enumerate() {
            let mut rule = Fields::new(&format!("rules[{index}]"), value, fields.warnings)?;
            let subnet = rule.subnet("subnet")?;
            rules.push((subnet, shape(rule)?));
        }
        let callback = fields.text("callback_state")?.filter(|state| !state.is_empty());
        let callback_target = fields.whole("callback_target", u64::MAX)?;
        let routing = match fields.text("routing_policy")?.as_deref() {
            None | Some("" | "deny_all") => Routing::DenyAll,
            Some("allow_all") => Routing::AllowAll,
            Some(other) => {
                return Err(fields.refuse(
                    "routing_policy",
                    &format!("`{other}`"),
                    "it must be `allow_all` or `deny_all`",
                ));
            }
        };
        fields.finish();
        Ok(Request {
            network,
            enable,
            ipv4,
            ipv6,
            wishes: Wishes { default, rules },
            callback,
            callback_target,
            routing,
            warnings,
        })
    }
}

// === impl RequestError ===

impl RequestError {
    /// The error for a name that is none of these networks.
    pub fn unknown_network<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> RequestError {
        let known: Vec<String> = known.map(str::to_owned).collect();
        let nearest = known
            .iter()
            .map(|k| (strsim::damerau_levenshtein(name, k), k))
            .filter(|(distance, k)| *distance <= k.len() / 3 + 1 && name != CONTROL_NETWORK)
            .min()
            .map(|(_, k)| k.clone());
        RequestError::UnknownNetwork { name: name.to_owned(), known, nearest }
    }
}

/// A shape as SDKs spell it: times in nanoseconds, bandwidth in bits per second with 0 for unlimited (the Go SDK
/// documents bytes, but the original always took bits), chances in percent.
fn shape(mut fields: Fields<'_>) -> Result<LinkShape, RequestError> {
    let mut shape = LinkShape {
        filter: fields.filter("filter")?,
        latency: fields.duration("latency", LinkShape::MAX_LATENCY)?,
        bandwidth: fields.bandwidth()?,
        corrupt: fields.chance("corrupt", "corrupt_corr")?,
        reorder: fields.chance("reorder", "reorder_corr")?,
        duplicate: fields.chance("duplicate", "duplicate_corr")?,
        ..LinkShape::default()
    };
    shape.jitter.spread = fields.duration("jitter", LinkShape::MAX_LATENCY)?;
    shape.loss = testground_model::shape::Loss::Random(fields.chance("loss", "loss_corr")?);
    if !shape.reorder.is_never() && shape.latency.is_zero() {
        fields.warn("reorder", "has no effect without `latency`: what is reordered skips the latency");
    }
    fields.finish();
    Ok(shape)
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!(" (is `{n}` meant?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testground_model::shape::{Chance, Filter, Loss};

    use super::*;

    fn read(text: &str) -> Result<Request, RequestError> {
        Request::read(text.as_bytes())
    }

    fn refused(text: &str) -> String {
        read(text).expect_err(text).to_string()
    }

    /// What sdk-go v0.3.0 publishes for a full `network.Config`.
    const GO: &str = r#"{"network":"default","IPv4":"16.0.1.1/16","IPv6":null,"enable":true,
        "default":{"latency":100000000,"jitter":5000000,"bandwidth":1048576,"filter":0,"loss":1.5,"corrupt":0.1,
        "corrupt_corr":2,"reorder":3,"reorder_corr":4,"duplicate":5,"duplicate_corr":6},
        "rules":[{"latency":0,"jitter":0,"bandwidth":0,"filter":2,"loss":0,"corrupt":0,"corrupt_corr":0,"reorder":0,
        "reorder_corr":0,"duplicate":0,"duplicate_corr":0,"subnet":"16.0.0.3/32"}],
        "callback_state":"network-configured","routing_policy":"deny_all"}"#;

    #[test]
    fn what_the_go_sdk_says_is_understood() {
        let request = read(GO).unwrap();
        assert_eq!(request.network, "default");
        assert_eq!(request.ipv4, Some(Ipv4Addr::new(16, 0, 1, 1)));
        assert_eq!(request.ipv6, None);
        assert!(request.enable);
        let shape = &request.wishes.default;
        assert_eq!(shape.latency, Duration::from_millis(100));
        assert_eq!(shape.jitter.spread, Duration::from_millis(5));
        assert!(!shape.jitter.may_reorder);
        assert_eq!(shape.bandwidth, Some(1_048_576));
        assert_eq!(shape.loss, Loss::Random(Chance::percent(1.5)));
        assert_eq!(shape.corrupt, Chance { percent: 0.1, correlation: 2.0 });
        assert_eq!(shape.reorder, Chance { percent: 3.0, correlation: 4.0 });
        assert_eq!(shape.duplicate, Chance { percent: 5.0, correlation: 6.0 });
        let (net, rule) = &request.wishes.rules[0];
        assert_eq!(net.to_string(), "16.0.0.3/32");
        assert_eq!(rule.filter, Filter::Drop);
        assert_eq!(rule.bandwidth, None);
        assert_eq!(request.callback.as_deref(), Some("network-configured"));
        assert_eq!(request.routing, Routing::DenyAll);
        assert_eq!(request.warnings, Vec::<String>::new());
    }

    #[test]
    fn what_the_other_sdks_say_is_understood() {
        let rust = r#"{"network":"default","IPv4":"16.0.1.1/24","IPv6":null,"enable":true,"default":{"latency":10000000,
            "jitter":0,"bandwidth":1048576,"filter":1,"loss":0.0,"corrupt":0.0,"corrupt_corr":0.0,"reorder":0.0,
            "reorder_corr":0.0,"duplicate":0.0,"duplicate_corr":0.0},"rules":null,"callback_state":"latency-reduced",
            "callback_target":3,"routing_policy":"allow_all"}"#;
        let request = read(rust).unwrap();
        assert_eq!(request.wishes.default.filter, Filter::Reject);
        assert_eq!(request.callback_target, Some(3));
        assert_eq!(request.routing, Routing::AllowAll);

        let js = r#"{"network":"default","enable":true,"default":{"latency":100000000.00000001,"bandwith":1e6},
            "callback_state":"x","callback_target":2,"routing_policy":"allow_all"}"#;
        let request = read(js).unwrap();
        assert_eq!(request.wishes.default.latency, Duration::from_millis(100));
        assert_eq!(
            request.wishes.default.bandwidth,
            Some(1_000_000),
            "the types of sdk-js spell it `bandwith`"
        );
        assert_eq!(request.warnings, Vec::<String>::new());
    }

    #[test]
    fn what_is_absent_is_as_in_go() {
        let request = read("{}").unwrap();
        assert!(!request.enable);
        assert_eq!((request.network.as_str(), request.callback), ("", None));
        assert_eq!(request.wishes, Wishes::default());
        let request =
            read(r#"{"Network":"a","ENABLE":true,"ipv4":null,"default":null,"IPv6":"fd00::5/64"}"#).unwrap();
        assert_eq!(request.network, "a", "keys count in any case");
        assert!(request.enable);
        assert_eq!(request.ipv6, Some("fd00::5".parse().unwrap()));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let default = |field: &str| refused(&format!(r#"{{"network":"default","default":{{{field}}}}}"#));
        assert_eq!(default(r#""loss":-1"#), "`default.loss` is -1: it must be a percentage, 0 to 100");
        assert_eq!(default(r#""loss":100.1"#), "`default.loss` is 100.1: it must be a percentage, 0 to 100");
        assert!(default(r#""loss":null"#).contains("`default.loss` is null"), "what JavaScript makes of NaN");
        assert!(default(r#""loss":"NaN""#).contains("`default.loss` is \"NaN\""));
        assert!(default(r#""corrupt_corr":101"#).contains("corrupt_corr"));
        assert!(default(r#""latency":-1"#).contains("`default.latency` is -1"));
        assert!(default(r#""latency":"100ms""#).contains("nanoseconds"));
        assert!(default(r#""latency":3600000000001"#).contains("one hour"));
        assert!(default(r#""latency":1e30"#).contains("`default.latency`"));
        assert!(default(r#""jitter":-5"#).contains("`default.jitter`"));
        assert!(default(r#""bandwidth":-5"#).contains("`default.bandwidth` is -5"));
        assert!(default(r#""bandwidth":0.5"#).contains("`default.bandwidth` is 0.5"));
        assert!(default(r#""filter":3"#).contains("0 (accept), 1 (reject) or 2 (drop)"));
        assert!(refused(r#"{"default":{"loss":1e400}}"#).contains("unreadable"));
        assert_eq!(
            read(r#"{"default":{"bandwidth":18446744073709551615}}"#).unwrap().wishes.default.bandwidth,
            Some(u64::MAX)
        );
    }

    #[test]
    fn bad_addresses_policies_and_messages_are_refused_by_name() {
        assert!(refused(r#"{"IPv4":"16.0.1.1/33"}"#).contains("`IPv4` is \"16.0.1.1/33\""));
        assert!(refused(r#"{"IPv4":"fd00::1/64"}"#).contains("`IPv4` is \"fd00::1/64\""));
        assert!(refused(r#"{"IPv6":"16.0.0.1/16"}"#).contains("`IPv6`"));
        assert!(
            refused(r#"{"rules":[{"subnet":"16.0.0.0/16"},{"filter":2}]}"#).contains("`rules[1].subnet`")
        );
        for subnet in ["", "<nil>", "16.0.0.0", "16.0.0.0/", "16.0.0.0/33", "x/8"] {
            let message = refused(&format!(r#"{{"rules":[{{"subnet":"{subnet}"}}]}}"#));
            assert!(message.contains("`rules[0].subnet` is") && message.contains("CIDR"), "{message}");
        }
        assert_eq!(
            refused(r#"{"routing_policy":"some"}"#),
            "`routing_policy` is `some`: it must be `allow_all` or `deny_all`"
        );
        assert!(refused(r#"{"enable":"yes"}"#).contains("`enable` is \"yes\""));
        assert!(refused("[1]").contains("the network request is unreadable"));
        assert!(refused("{").contains("the network request is unreadable"));
        assert!(refused(r#"{"default":5}"#).contains("`default` is 5"));
        assert!(refused(r#"{"rules":{}}"#).contains("`rules` is {}"));
    }

    #[test]
    fn a_rule_with_host_bits_means_its_network() {
        let request = read(r#"{"rules":[{"subnet":"16.0.3.7/24"}]}"#).unwrap();
        assert_eq!(request.wishes.rules[0].0.to_string(), "16.0.3.0/24");
    }

    #[test]
    fn what_is_odd_is_a_warning_with_the_nearest_name() {
        let request =
            read(r#"{"network":"default","defalt":{},"default":{"reorder":5,"latncy":1}}"#).unwrap();
        assert_eq!(
            request.warnings,
            [
                "`default.reorder` has no effect without `latency`: what is reordered skips the latency",
                "`default.latncy` is not known and has no effect (is `latency` meant?)",
                "`defalt` is not known and has no effect (is `default` meant?)",
            ]
        );
    }

    #[test]
    fn an_unknown_network_is_named_with_the_nearest() {
        let error = RequestError::unknown_network("defualt", ["default", "storage"].into_iter());
        assert_eq!(
            error.to_string(),
            "unknown network `defualt` (is `default` meant?); known: default, storage"
        );
        let error = RequestError::unknown_network("x", ["default"].into_iter());
        assert_eq!(error.to_string(), "unknown network `x`; known: default");
    }

    proptest::proptest! {
        #[test]
        fn no_message_makes_it_panic(text in r#"\{("(network|IPv4|default|rules|filter|subnet|enable)":(null|-?[0-9]{1,20}(\.5)?|"[a-z0-9./:]{0,12}"|\{"(latency|loss|subnet|bandwidth)":-?[0-9]{1,22}\}|\[\{\}\]),?){0,5}\}"#) {
            let _ = read(&text);
        }
    }
}
