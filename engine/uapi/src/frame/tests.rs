//! Given bytes, what is taken for a frame, and what is said of the rest.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{Body, Frame, FrameError, HEADER_BYTES, Kind, Status, answer, encode};
use crate::FRAME_BYTES_MAX;
use crate::request::{ExpectSpi, Shutdown};

fn expect() -> ExpectSpi {
    ExpectSpi { spi: U32::new(0x0102_0304), policy: U32::new(7) }
}

#[test]
fn what_is_written_is_read_back() {
    let bytes = encode(Status::More, 0x0123_4567_89ab_cdef, &expect(), b"tail");
    let frame = Frame::parse(&bytes).expect("our own frame");
    assert_eq!((frame.kind, frame.status, frame.request), (Kind::ExpectSpi, Status::More, 0x0123_4567_89ab_cdef));
    let (body, tail) = frame.body_and_tail::<ExpectSpi>().expect("its own layout");
    assert_eq!((body.as_bytes(), tail), (expect().as_bytes(), b"tail".as_slice()));

    let bytes = answer(Status::Full, 9);
    let frame = Frame::parse(&bytes).expect("our own answer");
    assert_eq!((frame.kind, frame.status, frame.request, frame.body), (Kind::Answer, Status::Full, 9, b"".as_slice()));
}

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = encode(Status::Exists, 5, &expect(), &[]);
    let header = [8, 0, 6, 0, 8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes.as_slice(), [header.as_slice(), &[4, 3, 2, 1], &[7, 0, 0, 0]].concat());
}

#[test]
fn a_frame_is_exactly_as_long_as_its_header_says() {
    let bytes = encode(Status::Done, 1, &expect(), b"tail");
    for length in 0..HEADER_BYTES {
        assert_eq!(Frame::parse(&bytes[..length]).err(), Some(FrameError::Short(length)));
    }
    for length in HEADER_BYTES..bytes.len() {
        let is = length - HEADER_BYTES;
        assert_eq!(Frame::parse(&bytes[..length]).err(), Some(FrameError::Length { said: 12, is }));
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(Frame::parse(&longer).err(), Some(FrameError::Length { said: 12, is: 13 }));
}

#[test]
fn the_longest_frame_is_taken_and_one_byte_more_is_not() {
    let body = FRAME_BYTES_MAX - HEADER_BYTES;
    let frame = |tail| encode(Status::Done, 1, &expect(), &vec![0; tail]);
    let tail = body - size_of::<ExpectSpi>();
    assert_eq!(Frame::parse(&frame(tail)).map(|frame| frame.body.len()), Ok(body));
    assert_eq!(Frame::parse(&frame(tail + 1)).err(), Some(FrameError::Length { said: body + 1, is: body + 1 }));
}

#[test]
fn unknown_kinds_and_statuses_are_named() {
    let with = |at: usize, value: u8| {
        let mut bytes = encode(Status::Done, 1, &expect(), &[]).to_vec();
        bytes[at] = value;
        Frame::parse(&bytes).err()
    };
    assert_eq!(with(0, 99), Some(FrameError::Kind(99)));
    assert_eq!(with(3, 1), Some(FrameError::Status(256)));
    for kind in Kind::ALL {
        assert_eq!(Kind::from_number(*kind as u16), Some(*kind));
    }
    for status in Status::ALL {
        assert_eq!(Status::from_number(*status as u16), Some(*status));
    }
}

#[test]
fn a_body_is_read_as_nothing_else() {
    let short = encode(Status::Done, 1, &expect(), &[]);
    let short = Frame { body: &short[HEADER_BYTES..HEADER_BYTES + 7], ..Frame::parse(&short).expect("our own frame") };
    let (kind, needs) = (ExpectSpi::KIND, size_of::<ExpectSpi>());
    assert_eq!(short.body::<ExpectSpi>().err(), Some(FrameError::Body { kind, needs, is: 7 }));
    assert_eq!(short.body_and_tail::<ExpectSpi>().err(), Some(FrameError::Body { kind, needs, is: 7 }));

    let long = encode(Status::Done, 1, &expect(), &[0]);
    let long = Frame::parse(&long).expect("our own frame");
    assert_eq!(long.body::<ExpectSpi>().err(), Some(FrameError::Body { kind, needs, is: needs + 1 }));
    let unexpected = FrameError::Unexpected { needs: Kind::Shutdown, is: Kind::ExpectSpi };
    assert_eq!(long.body::<Shutdown>().err(), Some(unexpected));
    assert_eq!(long.body_and_tail::<Shutdown>().err(), Some(unexpected));
}

#[test]
fn each_refusal_has_words_of_its_own() {
    let mut texts: Vec<_> = Status::ALL.iter().map(|status| status.text()).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), Status::ALL.len());
    assert!(Status::NotWriter.text().contains("another control"));
}
