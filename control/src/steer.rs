//! Which socket of the reuseport group a datagram goes to: a classic BPF program that reads the first word, because
//! our SPIs name their core (see [`penstock_uapi::Spi`]) and no table is needed.
//!
//! The members stand in the order in which they joined: control's IKE socket first, then a set for core 0 to n-1, and once an engine has
//! relieved another, a second set.
//! ```text
//!   shorter than 8 bytes (keepalive), or first word 0 (IKE) ──► member 0: control
//!   any other ──► member (entrance of the SPI modulo n) + 1 + n x set: the core
//! ```

use libc::{
    BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_IMM, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LEN, BPF_MEM,
    BPF_MISC, BPF_MOD, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX, BPF_W, BPF_X,
};
use penstock_uapi::Spi;

use crate::sys::Instruction;

/// One instruction: what, how far to jump if yes and if no, its constant.
pub(crate) fn instruction(code: u32, yes: u8, no: u8, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: yes, jf: no, k }
}

/// Where SPIs lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steering {
    /// How many cores, and members in each set.
    pub(crate) cores: u16,
    /// The set of the engine that runs.
    pub(crate) set: u8,
    /// The generation of the engine that is to relieve it, and that engine's set.
    pub(crate) relief: Option<(u8, u8)>,
}

impl Steering {
    /// The first member of a set.
    fn first(self, set: u8) -> u32 {
        1 + u32::from(self.cores) * u32::from(set)
    }

    /// The program. The kernel runs it with the data at the UDP payload (`net/core/sock_reuseport.c`, `run_bpf_filter` pulls the UDP
    /// header first).
    pub(crate) fn program(self) -> Vec<Instruction> {
        // Bits 8 and 9 of an SPI. A generation that cannot be leaves all to the engine that runs.
        let (generation, other) = self.relief.map_or((u32::MAX, self.set), |(generation, set)| (u32::from(generation & 3) << 8, set));
        vec![
            instruction(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0),
            instruction(BPF_JMP | BPF_JGE | BPF_K, 0, 16, 8),
            instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 14, 0, 0),
            instruction(BPF_ST, 0, 0, 0),
            instruction(BPF_JMP | BPF_JSET | BPF_K, 0, 1, Spi::ENTRANCE_BIT),
            instruction(BPF_ALU | BPF_RSH | BPF_K, 0, 0, Spi::ENTRANCE_SHIFT),
            instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xff),
            instruction(BPF_ALU | BPF_MOD | BPF_K, 0, 0, u32::from(self.cores.max(1))),
            instruction(BPF_MISC | BPF_TAX, 0, 0, 0),
            instruction(BPF_LD | BPF_MEM, 0, 0, 0),
            instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0x300),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, generation),
            instruction(BPF_LD | BPF_IMM, 0, 0, self.first(other)),
            instruction(BPF_JMP | BPF_JA, 0, 0, 1),
            instruction(BPF_LD | BPF_IMM, 0, 0, self.first(self.set)),
            instruction(BPF_ALU | BPF_ADD | BPF_X, 0, 0, 0),
            instruction(BPF_RET | BPF_A, 0, 0, 0),
            instruction(BPF_RET | BPF_K, 0, 0, 0),
        ]
    }
}
