//! B-13: one text per value.

use crate::auth::base64url;

/// RFC 4648 §10, without padding; and the twins of a text, which mean the same to a lenient decoder.
#[test]
fn base64url_has_one_text_per_value() {
    for (text, bytes) in
        [("", ""), ("Zg", "f"), ("Zm8", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob"), ("Zm9vYmFy", "foobar")]
    {
        assert_eq!(base64url::decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
    }
    assert_eq!(base64url::decode("-_8"), Some(vec![0xfb, 0xff]));
    for text in ["Zh", "Zm9", "Z", "Zm9vY", "Zg==", "Zm8=", "+/8", "Z g", "Zg\n", "Zé"] {
        assert_eq!(base64url::decode(text), None, "{text}");
    }
}
