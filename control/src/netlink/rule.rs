//! Rules that merge our table with the main one, so that the longest prefix of *both* wins, and that keep our own
//! sockets' packets out of our routes.
//!
//! Our routes stand in a table of their own, because a packet of ours to a peer whose subnet covers its own endpoint
//! (`0.0.0.0/0`) must not see them. A plain rule for that table before main would hide every more specific route of
//! main (the local network behind a tunnelled default), and one behind main would be hidden by main's default. So
//! for each prefix length L of our routes, longest first, two rules stand:
//!
//! ```text
//!   not from all fwmark  lookup main   suppress_prefixlength L      main's route if longer than L
//!   not from all fwmark  lookup TABLE  suppress_prefixlength L-1    ours if at least L
//! ```
//! A packet whose best route of ours has length t and whose best route of main has length m is caught by main at the
//! first L < m, or by ours at L = t, whichever comes first: main wins if m > t, else ours. Marked packets pass all
//! our rules without a look-up and end in main as if we were not there.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteHeader;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{Netlink, NetlinkError, Plan, protocol};

/// The first of our rules' priorities; at most 2 x 129 follow, all before main (32766) and behind what
/// administrators and other programs usually set.
pub const PRIORITY: u32 = 32_500;

/// One rule, as far as ours differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    priority: u32,
    table: u32,
    /// Routes of this length or shorter do not count.
    suppress: Option<u32>,
    /// Only packets without this mark.
    not_mark: Option<u32>,
}

/// The rules that the plan's routes of one family need.
#[must_use]
pub fn wanted(plan: &Plan, family: AddressFamily) -> Vec<Rule> {
    let of_family = |subnet: &IpNet| subnet.addr().is_ipv4() == (family == AddressFamily::Inet);
    let lengths: BTreeSet<u8> = plan.routes.iter().map(|route| route.subnet).filter(of_family).map(|s| s.prefix_len()).collect();
    let longest = if family == AddressFamily::Inet { 32 } else { 128 };
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    let mut rules = Vec::new();
    let mut priority = PRIORITY;
    for length in lengths.into_iter().rev().map(u32::from) {
        if length < longest {
            rules.push(Rule { priority, table: main, suppress: Some(length), not_mark: Some(plan.mark) });
        }
        rules.push(Rule { priority: priority + 1, table: plan.table, suppress: length.checked_sub(1), not_mark: Some(plan.mark) });
        priority += 2;
    }
    rules
}

impl Netlink {
    /// Makes our rules of one family exactly these; returns how many were added.
    pub(super) async fn apply_rules(&self, family: AddressFamily, wanted: &[Rule]) -> Result<usize, NetlinkError> {
        let version = || if family == AddressFamily::Inet { IpVersion::V4 } else { IpVersion::V6 };
        let listed: Result<Vec<_>, _> = self.handle.rule().get(version()).execute().try_collect().await;
        let all = match listed.map_err(|error| NetlinkError::new("list rules", error)) {
            Err(error) if error.is(libc::EAFNOSUPPORT) || error.is(libc::EOPNOTSUPP) => Vec::new(),
            other => other?,
        };
        let ours: Vec<_> = all.into_iter().filter(is_ours).map(|message| (rule_of(&message), message)).collect();
        let missing: Vec<_> = wanted.iter().filter(|rule| !ours.iter().any(|(present, _)| present == *rule)).collect();
        for rule in &missing {
            self.add_rule(version(), rule).await?;
        }
        for (_, message) in ours.into_iter().filter(|(present, _)| !wanted.contains(present)) {
            let deleted = self.handle.rule().del(message).execute().await;
            match deleted.map_err(|error| NetlinkError::new("remove a rule", error)) {
                Err(error) if error.is(libc::ENOENT) => (),
                other => other?,
            }
        }
        Ok(missing.len())
    }

    async fn add_rule(&self, version: IpVersion, rule: &Rule) -> Result<(), NetlinkError> {
        let request = self.handle.rule().add().table_id(rule.table).priority(rule.priority).action(RuleAction::ToTable);
        let extra = |message: &mut RuleMessage| {
            message.attributes.push(RuleAttribute::Protocol(protocol()));
            if let Some(length) = rule.suppress {
                message.attributes.push(RuleAttribute::SuppressPrefixLen(length));
            }
            if let Some(mark) = rule.not_mark {
                message.attributes.push(RuleAttribute::FwMark(mark));
                message.header.flags = RuleFlags::Invert;
            }
        };
        let added = match version {
            IpVersion::V4 => {
                let mut request = request.v4();
                extra(request.message_mut());
                request.execute().await
            }
            IpVersion::V6 => {
                let mut request = request.v6();
                extra(request.message_mut());
                request.execute().await
            }
        };
        match added.map_err(|error| NetlinkError::new(format!("add the rule of priority {}", rule.priority), error)) {
            Err(error) if error.is(libc::EEXIST) => Ok(()),
            other => other,
        }
    }
}

fn is_ours(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(protocol()))
}

fn rule_of(message: &RuleMessage) -> Rule {
    let mut rule = Rule { priority: 0, table: message.header.table.into(), suppress: None, not_mark: None };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            // The kernel reports "nothing suppressed" as -1.
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => rule.suppress = Some(*length),
            RuleAttribute::FwMark(mark) if message.header.flags.contains(RuleFlags::Invert) => rule.not_mark = Some(*mark),
            _ => (),
        }
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::{Plan, Rule, wanted};
    use crate::netlink::Route;
    use rtnetlink::packet_route::AddressFamily;

    fn plan(subnets: &[&str]) -> Plan {
        let routes = subnets.iter().map(|s| Route { subnet: s.parse().expect("a prefix"), source: None }).collect();
        Plan { device: "pen0".into(), addresses: vec![], mtu: 1438, routes, mark: 7, table: 4500 }
    }

    /// What the kernel does with our rules, then main: the best length of a table counts unless it is suppressed.
    fn winner(rules: &[Rule], ours: Option<u32>, main: Option<u32>, marked: bool) -> Option<&'static str> {
        for rule in rules {
            let (who, best) = if rule.table == 4500 { ("ours", ours) } else { ("main", main) };
            let applies = rule.not_mark.is_none() || !marked;
            if applies && best.is_some_and(|best| rule.suppress.is_none_or(|length| best > length)) {
                return Some(who);
            }
        }
        main.map(|_| "main")
    }

    #[test]
    fn the_longest_prefix_of_both_tables_wins_and_marked_packets_see_only_main() {
        let rules = wanted(&plan(&["10.0.0.0/8", "10.1.2.0/24", "0.0.0.0/0", "10.9.9.9/32", "fd00::/8"]), AddressFamily::Inet);
        let options = |all: std::ops::RangeInclusive<u32>| std::iter::once(None).chain(all.map(Some));
        for ours in [None, Some(0), Some(8), Some(24), Some(32)] {
            for main in options(0..=32) {
                let expected = match (ours, main) {
                    (None, None) => None,
                    (Some(ours), Some(main)) if main > ours => Some("main"),
                    (Some(_), _) => Some("ours"),
                    (None, Some(_)) => Some("main"),
                };
                assert_eq!(winner(&rules, ours, main, false), expected, "{ours:?} {main:?}");
                assert_eq!(winner(&rules, ours, main, true), main.map(|_| "main"));
            }
        }
    }

    #[test]
    fn our_own_packets_pass_without_a_look_up() {
        let rules = wanted(&plan(&["10.0.0.0/8", "10.1.2.0/24", "0.0.0.0/0"]), AddressFamily::Inet);
        assert_eq!(rules.len(), 6);
        assert!(rules.iter().all(|rule| rule.not_mark == Some(7)));
    }

    #[test]
    fn a_family_without_routes_needs_no_rules() {
        assert!(wanted(&plan(&["10.0.0.0/8"]), AddressFamily::Inet6).is_empty());
    }
}
