package sign

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"

	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kiln/internal/model"
)

// Build is how an image was made, as far as it is to be told to others: SLSA
// provenance, version 1 (https://slsa.dev/spec/v1.1/provenance).
type Build struct {
	// Type is a URI that says how the parameters have to be read.
	Type string
	// Parameters are what the user asked for. Whoever checks a build compares them.
	// Values are what JSON has.
	Parameters map[string]any
	// Internal are parameters of the builder's own; nil: none are told.
	Internal map[string]any
	// Inputs are what the build is made of, as far as they are known.
	Inputs []Input
	// Builder is a URI that names who built it, and stands for how well that one
	// keeps builds apart.
	Builder string
	// Versions are those of the builder's parts, by name; nil: none are told.
	Versions map[string]string
	// Invocation names this one build at the builder; "": it has no name.
	Invocation string
	// Started and Finished; zero: not told.
	Started, Finished time.Time
}

// Input is something that a build used: source, base image, file.
type Input struct {
	Name        string          // "": it has none
	URI         string          // where it is from; "": not told
	Digests     []digest.Digest // of different algorithms; nil: not known
	Commit      string          // of a Git repository, in hexadecimal; "": it is none
	Annotations map[string]any  // what else is told of it
}

// Predicate returns the build as the predicate of a Provenance statement. Inputs are
// in the order of their URIs and names; the same in gives the same out.
//
// Invalid: the specification asks for what is missing (type, parameters, builder, a
// name, URI or digest of each input), or a value is none of JSON's.
func (b Build) Predicate() (json.RawMessage, error) {
	refuse := func(err error) (json.RawMessage, error) {
		return nil, model.Errorf(model.Invalid, "cannot write the provenance of a build: %w", err)
	}
	external, err := structpb.NewStruct(b.Parameters)
	if err != nil {
		return refuse(err)
	}
	var internal *structpb.Struct
	if b.Internal != nil {
		if internal, err = structpb.NewStruct(b.Internal); err != nil {
			return refuse(err)
		}
	}
	inputs, err := descriptors(b.Inputs)
	if err != nil {
		return refuse(err)
	}
	p := &provenance.Provenance{
		BuildDefinition: &provenance.BuildDefinition{
			BuildType: b.Type, ExternalParameters: external, InternalParameters: internal, ResolvedDependencies: inputs,
		},
		RunDetails: &provenance.RunDetails{
			Builder: &provenance.Builder{Id: b.Builder, Version: b.Versions},
			Metadata: &provenance.BuildMetadata{
				InvocationId: b.Invocation, StartedOn: timestamp(b.Started), FinishedOn: timestamp(b.Finished),
			},
		},
	}
	if err := p.Validate(); err != nil {
		return refuse(err)
	}
	text, err := protojson.Marshal(p)
	if err != nil {
		return refuse(err)
	}
	var compact bytes.Buffer // protojson strews white space at random
	if err := json.Compact(&compact, text); err != nil {
		return refuse(err)
	}
	return compact.Bytes(), nil
}

func descriptors(inputs []Input) ([]*intoto.ResourceDescriptor, error) {
	inputs = slices.Clone(inputs)
	slices.SortStableFunc(inputs, func(a, b Input) int {
		return strings.Compare(a.URI+"\x00"+a.Name, b.URI+"\x00"+b.Name)
	})
	var list []*intoto.ResourceDescriptor
	for _, in := range inputs {
		d := &intoto.ResourceDescriptor{Name: in.Name, Uri: in.URI, Digest: map[string]string{}}
		if in.Commit != "" {
			d.Digest["gitCommit"] = in.Commit // the name that in-toto's specification has for it
		}
		for _, sum := range in.Digests {
			if err := sum.Validate(); err != nil {
				return nil, err
			}
			d.Digest[string(sum.Algorithm())] = sum.Encoded()
		}
		if in.Annotations != nil {
			var err error
			if d.Annotations, err = structpb.NewStruct(in.Annotations); err != nil {
				return nil, err
			}
		}
		list = append(list, d)
	}
	return list, nil
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
