//! gRPC clients that do what they should not: read nothing, stop in the middle, flood, take and never claim, hang up.
//! Beside each a client of another tenant works on, and must not notice; what the broker takes for them is bounded.

mod calls;
pub(crate) mod company;
mod floods;
mod http2;
mod watches;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    ClaimRequest, CreateRequest, GrantRequest, KeepAliveRequest, Kind, ListLeasesRequest, RevokeRequest,
};
use scratch_tests::{Broker, Channel, DEADLINE, Options, contained, eventually, with_grpc};
use tonic_types::StatusExt;

use crate::regressions::nothing_is_left;
use company::{Company, descriptors, resident};
use http2::{END_STREAM, HEADERS, KEEP_ALIVE, LIST, PREFACE, Raw, begin, message, streams};

const TENANT: u32 = 1234;

/// What a tenant that reads nothing may cost, in KiB: 4 096 calls under way with what belongs to a call, some pages, and some
/// room for what was freed and is kept by the allocator. Not a page for each call.
const UNREAD_MAX: u64 = 128 << 10;

/// Leases for pages that are full.
fn many_leases(broker: &Broker) -> Channel {
    let mut channel = Channel::connect(&broker.handle_socket());
    for _ in 0..1000 {
        let granted = channel.ask(Op::Grant(GrantRequest::default()));
        assert!(matches!(granted, Reply::Grant(_)), "{granted:?}");
    }
    channel
}

/// Looks when calls that are under way cost no more than at the last look.
fn bounded(broker: &Broker, company: &mut Company, before: u64) {
    let (mut after, mut last) = (resident(broker), 0);
    while after > last + last / 100 {
        company.is_well();
        (after, last) = (resident(broker), after);
    }
    println!("resident: {before} KiB before, {after} KiB after");
    assert!(after < before + UNREAD_MAX, "{before} KiB before, {after} KiB after");
}

/// After this the broker has nothing of connections but those of who is well.
fn hung_up(broker: &Broker, before: usize) {
    eventually(DEADLINE, "what was hung up is closed", || descriptors(broker) <= before);
}

/// So many connections with 256 calls each, whose replies are full pages and are not read.
fn unread_lists(test: &str, connections: usize) {
    contained(test, || {
        let broker = Broker::start(Options::default());
        let mut company = Company::start(&broker);
        let _leases = many_leases(&broker);
        let (before, open) = (resident(&broker), descriptors(&broker));
        let list = |stream| [begin(stream, LIST), message(stream, END_STREAM, &ListLeasesRequest::default())].concat();
        let lists: Vec<u8> = streams().take(256).flat_map(list).collect();
        let mut raws: Vec<Raw> = (0..connections).map(|_| Raw::connect(&broker)).collect();
        raws.iter_mut().for_each(|raw| raw.send(&lists).expect("256 calls are read"));
        raws.iter().for_each(Raw::wait_until_read);
        bounded(&broker, &mut company, before);
        drop(raws);
        hung_up(&broker, open);
        company.leave();
    });
}

#[test]
fn lists_that_nobody_reads_are_bounded() {
    unread_lists("misbehaviour::lists_that_nobody_reads_are_bounded", 1);
}

/// As many calls as a tenant may have.
#[test]
fn lists_that_nobody_reads_on_many_connections_are_bounded() {
    unread_lists("misbehaviour::lists_that_nobody_reads_on_many_connections_are_bounded", 15);
}

#[test]
fn renewals_whose_replies_nobody_reads_are_bounded() {
    contained("misbehaviour::renewals_whose_replies_nobody_reads_are_bounded", || {
        let broker = Broker::start(Options::default());
        let mut company = Company::start(&broker);
        let (before, open) = (resident(&broker), descriptors(&broker));
        let mut raw = Raw::connect(&broker);
        raw.send(&begin(1, KEEP_ALIVE)).expect("a call is read");
        let request = message(1, 0, &KeepAliveRequest { lease: "a".repeat(16) });
        // More than the broker grants room for: it stops reading, or cuts this off.
        let taken = raw.send_what_is_taken(&request.repeat(200_000));
        println!("all was taken: {taken}");
        bounded(&broker, &mut company, before);
        drop(raw);
        hung_up(&broker, open);
        company.leave();
    });
}

#[test]
fn half_a_frame_stalls_nobody() {
    contained("misbehaviour::half_a_frame_stalls_nobody", || {
        let mut broker = Broker::start(Options::default());
        let mut company = Company::start(&broker);
        let open = descriptors(&broker);
        let request = begin(1, LIST);
        let after_preface = [PREFACE, &http2::frame(http2::SETTINGS, 0, 0, &[])].concat();
        let beginnings: [&[u8]; 6] = [
            &[],
            &PREFACE[..7],
            &[&after_preface[..], &request[..4]].concat(),
            &[&after_preface[..], &request[..9 + 5]].concat(),
            // Headers that do not end, and a message that does not.
            &[&after_preface[..], &http2::frame(HEADERS, 0, 1, &http2::call(LIST))].concat(),
            &[&after_preface[..], &request, &http2::frame(http2::DATA, 0, 1, &[0, 0, 0, 1, 0, 8])].concat(),
        ];
        let begun = |beginning: &&[u8]| {
            let mut raw = Raw::silent(&broker);
            raw.send(beginning).expect("the broker reads");
            raw.wait_until_read();
            raw
        };
        let stalled: Vec<Raw> = beginnings.iter().map(begun).collect();
        let silent: Vec<Channel> = (0..8).map(|_| Channel::connect(&broker.handle_socket())).collect();
        company.is_well();
        drop((stalled, silent));
        hung_up(&broker, open);
        let stalled: Vec<Raw> = beginnings.iter().map(begun).collect();
        company.leave();
        assert!(broker.terminate().success(), "who says nothing does not hold up a stop");
        drop(stalled);
    });
}

fn wanting_handles(lease: &str, count: u32) -> CreateRequest {
    let kind = Kind::Anonymous.into();
    CreateRequest { lease: lease.to_owned(), kind, count, ..CreateRequest::default() }
}

#[test]
fn tickets_that_nobody_claims_end_with_their_lease() {
    contained("misbehaviour::tickets_that_nobody_claims_end_with_their_lease", || {
        let broker = Broker::start(Options::default());
        let company = Company::start(&broker);
        with_grpc(&broker, async |grpc| {
            let (mut leases, mut areas) = (LeasesClient::new(grpc.clone()), AreasClient::new(grpc));
            let mut grant = async || leases.grant(GrantRequest::default()).await.expect("it grants").into_inner().id;
            let (lease, other) = (grant().await, grant().await);
            let open = descriptors(&broker);
            let mut tickets = Vec::new();
            for _ in 0..64 {
                let made = areas.create(wanting_handles(&lease, 20)).await.expect("64 tickets are open at most");
                tickets.push(made.into_inner().ticket);
            }
            assert!(descriptors(&broker) >= open + 64 * 20, "descriptors behind tickets are open");
            let refused = areas.create(wanting_handles(&other, 1)).await.expect_err("the 65th");
            let reason = refused.get_details_error_info().expect("every error carries ErrorInfo").reason;
            assert_eq!((refused.code(), reason.as_str()), (tonic::Code::ResourceExhausted, "LIMIT_TICKETS"));

            leases.revoke(RevokeRequest { lease, ..RevokeRequest::default() }).await.expect("it revokes");
            hung_up(&broker, open);
            areas.create(wanting_handles(&other, 1)).await.expect("there is room again");
            let mut channel = Channel::connect(&broker.handle_socket());
            for ticket in tickets {
                let claimed = channel.ask(Op::Claim(ClaimRequest { ticket }));
                let Reply::Error(error) = claimed else { panic!("of a lease that has ended: {claimed:?}") };
                assert_eq!(error.reason, "TICKET_UNKNOWN");
            }
            leases.revoke(RevokeRequest { lease: other, ..RevokeRequest::default() }).await.expect("it revokes");
        });
        company.leave();
        nothing_is_left(&broker);
    });
}

#[test]
fn descriptors_sent_to_grpc_are_not_kept() {
    contained("misbehaviour::descriptors_sent_to_grpc_are_not_kept", || {
        let broker = Broker::start(Options::default());
        let mut company = Company::start(&broker);
        let open = descriptors(&broker);
        let (read_end, write_end) = rustix::pipe::pipe().expect("descriptors are left");
        let rounds: Vec<UnixStream> = (0..16)
            .map(|_| {
                let raw = Raw::silent(&broker);
                let passed = [read_end.as_fd(); 100];
                // Since Linux 6.16 the kernel refuses them; before that the broker receives and closes them.
                match scratch_sys::send_packet(raw.socket.as_fd(), PREFACE, &passed, SendFlags::NOSIGNAL) {
                    Ok(()) => raw.wait_until_read(),
                    Err(errno) => assert_eq!(errno, Errno::PERM),
                }
                raw.socket
            })
            .collect();
        drop(read_end);
        let timeout = DEADLINE.try_into().expect("a test's deadline is no eternity");
        let closed = poll(&mut [PollFd::new(&write_end, PollFlags::empty())], Some(&timeout));
        assert_eq!(closed, Ok(1), "the broker keeps what it was sent");
        company.is_well();
        drop(rounds);
        hung_up(&broker, open);
        company.leave();
    });
}
