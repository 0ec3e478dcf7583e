use fumehood_protocol::{
    ActionTag, Chunk, ErrorType, InputData, Item, Limits, OpId, Request, Stdin, WireError,
};

/// A line of the client after parsing: a request, or the reason why it is not one.
#[derive(Debug)]
pub(crate) struct IncomingRequest {
    pub(crate) op_id: Option<OpId>,
    pub(crate) request: Result<Request, WireError>,
}

impl IncomingRequest {
    /// Parses a line.
    pub(super) fn parse(item: Item) -> Self {
        let line = match item {
            Item::Line(line) | Item::Raw(line) => line,
            Item::TooLong { limit } => {
                let message =
                    format!("a line exceeds {limit} bytes (limit line_bytes) and was discarded");
                return Self {
                    op_id: None,
                    request: Err(WireError::new(ErrorType::ProtocolError, message)),
                };
            }
        };

        match Request::parse(&line) {
            Ok(request) => Self {
                op_id: request.op_id(),
                request: Ok(request),
            },
            Err(rejected) => Self {
                op_id: rejected.op_id,
                request: Err(rejected.error),
            },
        }
    }

    /// Turns a raw frame of input into the `stdin` request that it stands for.
    pub(super) fn from_frame(data: &InputData, bytes: Vec<u8>) -> Self {
        let stdin = Stdin {
            action: ActionTag,
            op_id: data.op_id,
            chunk: Some(Chunk::Bytes(bytes)),
            eof: data.eof,
        };

        Self {
            op_id: Some(data.op_id),
            request: Ok(Request::Stdin(stdin)),
        }
    }

    /// Replaces a request that exceeds a limit by its error, so that a waiting request never holds
    /// more memory than the limits allow.
    pub(crate) fn check_limits(self, limits: &Limits) -> Self {
        let error = match &self.request {
            Ok(Request::Exec(exec)) => exec.check(limits).err(),
            Ok(Request::InstallPackages(install)) => install.check(limits).err(),
            Ok(Request::Spawn(spawn)) => spawn.check(limits).err(),
            _ => None,
        };

        match error {
            Some(error) => Self {
                request: Err(error),
                ..self
            },
            None => self,
        }
    }
}
