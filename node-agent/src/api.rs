//! Reading the API server's refusals.

/// Whether the API server says that the object is not there.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// Whether the API server says that the object has changed meanwhile, or exists already.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    code(error) == Some(409)
}

/// Whether the API server will never take this request as it is.
pub(crate) fn is_refused(error: &kube::Error) -> bool {
    code(error).is_some_and(|code| matches!(code, 400 | 403 | 413 | 422))
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
