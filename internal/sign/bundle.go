package sign

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"kiln/internal/model"
)

// BundleMediaType is what a bundle is of: version 0.3, defined in
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto.
const BundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// olderMediaType is how the same version was called first.
const olderMediaType = "application/vnd.dev.sigstore.bundle+json;version=0.3"

// MaxBundle is how large a bundle may be, in bytes. A list of the files of a large
// image has some 10 MiB.
const MaxBundle = 64 << 20

// SignImage signs an image by its digest, as "cosign sign --key" does it, and
// returns a bundle.
//
// Invalid: it is no digest of an image.
func (k *PrivateKey) SignImage(image digest.Digest) ([]byte, error) {
	return bundleOf(k, image, Signature, nil)
}

// Attest signs a statement about an image and returns a bundle. predicateType is a
// URI, which says how the predicate, a JSON object, has to be read.
//
// Invalid: one of them is wrong.
func (k *PrivateKey) Attest(image digest.Digest, predicateType string, predicate json.RawMessage) ([]byte, error) {
	if predicate == nil {
		return nil, model.Errorf(model.Invalid, "cannot sign a statement of the type %s that says nothing", predicateType)
	}
	return bundleOf(k, image, predicateType, predicate)
}

func bundleOf(key *PrivateKey, image digest.Digest, predicateType string, predicate json.RawMessage) ([]byte, error) {
	payload, err := newStatement(image, predicateType, predicate)
	if err != nil {
		return nil, err
	}
	signature, err := key.sign(encoded(payloadType, payload))
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: BundleMediaType,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{
				PublicKey: &protocommon.PublicKeyIdentifier{Hint: key.public.hint()},
			},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: payload, PayloadType: payloadType, Signatures: []*protodsse.Signature{{Sig: signature}},
		}},
	})
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot write a bundle: %w", err)
	}
	var compact bytes.Buffer // protojson strews white space at random
	if err := json.Compact(&compact, text); err != nil {
		return nil, model.Errorf(model.Internal, "cannot write a bundle: %w", err)
	}
	if compact.Len() > MaxBundle {
		return nil, model.Errorf(model.Invalid, "cannot sign a statement of the type %s: its bundle would have %d bytes, more than %d", predicateType, compact.Len(), MaxBundle)
	}
	return compact.Bytes(), nil
}

// encoded is what DSSE signs: its pre-authentication encoding.
func encoded(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// writers says where bundles come from that are read here.
const writers = "kiln and cosign 3 write bundles of the kind " + BundleMediaType + " with an in-toto statement"

// bundle is what matters here of a Sigstore bundle.
type bundle struct {
	payload   []byte // a statement, if it is what it says
	signature []byte
	hint      string // names a key; "" where it names none. Nothing proves it
}

// parseBundle reads a bundle that has a statement in it.
//
// Invalid: it is none (ErrNoBundle).
func parseBundle(text []byte) (bundle, error) {
	refuse := func(format string, args ...any) (bundle, error) {
		return bundle{}, model.Errorf(model.Invalid, "%w: %s", ErrNoBundle, fmt.Sprintf(format, args...)).
			WithHint(writers)
	}
	if len(text) > MaxBundle {
		return refuse("it has more than %d bytes", MaxBundle)
	}
	var b protobundle.Bundle
	if err := protojson.Unmarshal(text, &b); err != nil {
		return refuse("%v", err)
	}
	if kind := b.GetMediaType(); kind != BundleMediaType && kind != olderMediaType {
		return refuse("its media type is %q", kind)
	}
	envelope := b.GetDsseEnvelope()
	switch {
	case envelope == nil && b.GetMessageSignature() != nil:
		return refuse("it has a signature of a file, and no statement")
	case envelope == nil:
		return refuse("there is no envelope in it")
	case envelope.GetPayloadType() != payloadType:
		return refuse("its envelope is of the type %q", envelope.GetPayloadType())
	case len(envelope.GetSignatures()) != 1:
		return refuse("its envelope has %d signatures, and a bundle has one", len(envelope.GetSignatures()))
	}
	return bundle{
		payload:   envelope.GetPayload(),
		signature: envelope.GetSignatures()[0].GetSig(),
		hint:      b.GetVerificationMaterial().GetPublicKey().GetHint(),
	}, nil
}

// Peek reads a bundle without checking it: what it says may be anybody's word. The
// second result is the ID of the key that it names; "": it names none.
//
// Invalid: it is no bundle with a statement in it (ErrNoBundle).
func Peek(text []byte) (Statement, string, error) {
	b, err := parseBundle(text)
	if err != nil {
		return Statement{}, "", err
	}
	s, err := parseStatement(b.payload)
	if err != nil {
		return Statement{}, "", model.Errorf(model.Invalid, "%w: %v", ErrNoBundle, err).WithHint(writers)
	}
	return s, idOf(b.hint), nil
}
