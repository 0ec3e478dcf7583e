use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};

/// A condition on one argument of a system call. Numbers are compared as the kernel reads them: flags, options and
/// descriptors have 32 bits, addresses 64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition {
    /// The argument, from 0.
    argument: u8,
    length: Length,
    test: Test,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Number,
    Address,
}

#[derive(Debug, Clone, Copy)]
enum Test {
    Equal(u64),
    NotEqual(u64),
    AtMost(u64),
    AtLeast(u64),
    /// The bits of this mask have this value.
    Bits {
        mask: u64,
        value: u64,
    },
    /// The process id of the program itself.
    OwnProcess,
}

/// An argument that is a number: flags, an option, a descriptor, a process id.
pub(super) const fn number(argument: u8) -> Argument {
    Argument(argument, Length::Number)
}

/// An argument that is an address.
pub(super) const fn address(argument: u8) -> Argument {
    Argument(argument, Length::Address)
}

/// An argument of a system call, on which a condition is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Argument(u8, Length);

impl Argument {
    const fn test(self, test: Test) -> Condition {
        let Self(argument, length) = self;
        Condition {
            argument,
            length,
            test,
        }
    }

    pub(super) const fn is(self, value: u64) -> Condition {
        self.test(Test::Equal(value))
    }

    pub(super) const fn is_not(self, value: u64) -> Condition {
        self.test(Test::NotEqual(value))
    }

    pub(super) const fn at_most(self, value: u64) -> Condition {
        self.test(Test::AtMost(value))
    }

    pub(super) const fn at_least(self, value: u64) -> Condition {
        self.test(Test::AtLeast(value))
    }

    /// Only these flags may be set.
    pub(super) const fn only(self, flags: u64) -> Condition {
        self.without(!flags & 0xffff_ffff)
    }

    /// These flags may not be set.
    pub(super) const fn without(self, flags: u64) -> Condition {
        self.bits(flags, 0)
    }

    /// The bits of a mask have this value.
    pub(super) const fn bits(self, mask: u64, value: u64) -> Condition {
        self.test(Test::Bits { mask, value })
    }

    /// It is the process id of the program itself.
    pub(super) const fn own_process(self) -> Condition {
        self.test(Test::OwnProcess)
    }
}

impl Condition {
    /// Compiles the condition for the process with this id.
    pub(super) fn compile(self, pid: u32) -> Result<SeccompCondition, BackendError> {
        let (operator, value) = match self.test {
            Test::Equal(value) => (SeccompCmpOp::Eq, value),
            Test::NotEqual(value) => (SeccompCmpOp::Ne, value),
            Test::AtMost(value) => (SeccompCmpOp::Le, value),
            Test::AtLeast(value) => (SeccompCmpOp::Ge, value),
            Test::Bits { mask, value } => (SeccompCmpOp::MaskedEq(mask), value),
            Test::OwnProcess => (SeccompCmpOp::Eq, u64::from(pid)),
        };
        let length = match self.length {
            Length::Number => SeccompCmpArgLen::Dword,
            Length::Address => SeccompCmpArgLen::Qword,
        };
        SeccompCondition::new(self.argument, length, operator, value)
    }
}
