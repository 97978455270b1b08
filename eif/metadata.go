package eif

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Metadata is the content of the metadata section. No register covers it: it proves nothing about the image.
type Metadata struct {
	ImageName     string
	ImageVersion  string
	BuildMetadata BuildMetadata
	// DockerInfo is what `docker image inspect` or an OCI configuration says about the image; any JSON value.
	DockerInfo json.RawMessage
	// CustomMetadata is the user's own: a JSON object or null. nitro-cli cannot describe a file with anything
	// else.
	CustomMetadata json.RawMessage
}

// BuildMetadata describes what made the file.
type BuildMetadata struct {
	BuildTime        string // RFC 3339
	BuildTool        string
	BuildToolVersion string
	OperatingSystem  string // of the enclave, as the first words of the kernel's configuration name it
	KernelVersion    string
}

// Encode returns the content of a metadata section: compact, the fields in the reference's order, and within
// DockerInfo and CustomMetadata the keys of objects sorted, so that the same metadata are the same bytes.
func (m Metadata) Encode() ([]byte, error) {
	var err error
	if m.DockerInfo, err = sorted(m.DockerInfo); err != nil {
		return nil, fmt.Errorf("DockerInfo: %w", err)
	}
	if m.CustomMetadata, err = sorted(m.CustomMetadata); err != nil {
		return nil, fmt.Errorf("CustomMetadata: %w", err)
	}
	if c := m.CustomMetadata[0]; c != '{' && c != 'n' {
		return nil, errors.New("CustomMetadata: expected a JSON object or null, as nitro-cli describe-eif " +
			"does")
	}
	return compact(m)
}

// ParseMetadata reads the content of a metadata section. All fields are required, as in the reference's
// reader.
func ParseMetadata(section []byte) (*Metadata, error) {
	// Maps, because Go matches the fields of a struct in any case, and the reference does not.
	var outer, inner map[string]json.RawMessage
	if err := json.Unmarshal(section, &outer); err != nil {
		return nil, fmt.Errorf("the metadata section is not valid JSON: %w", err)
	}
	if outer["BuildMetadata"] == nil {
		return nil, errors.New("the metadata section has no BuildMetadata")
	}
	if err := json.Unmarshal(outer["BuildMetadata"], &inner); err != nil {
		return nil, fmt.Errorf("the metadata section's BuildMetadata: %w", err)
	}
	m := &Metadata{DockerInfo: outer["DockerInfo"], CustomMetadata: outer["CustomMetadata"]}
	for _, field := range []struct {
		in   map[string]json.RawMessage
		name string
		to   *string
	}{
		{outer, "ImageName", &m.ImageName},
		{outer, "ImageVersion", &m.ImageVersion},
		{inner, "BuildTime", &m.BuildMetadata.BuildTime},
		{inner, "BuildTool", &m.BuildMetadata.BuildTool},
		{inner, "BuildToolVersion", &m.BuildMetadata.BuildToolVersion},
		{inner, "OperatingSystem", &m.BuildMetadata.OperatingSystem},
		{inner, "KernelVersion", &m.BuildMetadata.KernelVersion},
		{outer, "DockerInfo", nil},
		{outer, "CustomMetadata", nil},
	} {
		value, ok := field.in[field.name]
		if !ok {
			return nil, fmt.Errorf("the metadata section has no %s", field.name)
		}
		if field.to == nil {
			continue
		}
		var text *string
		if err := json.Unmarshal(value, &text); err != nil || text == nil {
			return nil, fmt.Errorf("the metadata section's %s is %.40s: expected a string", field.name, value)
		}
		*field.to = *text
	}
	if c := m.CustomMetadata[0]; c != '{' && c != 'n' {
		return nil, errors.New("the metadata section's CustomMetadata: expected an object or null")
	}
	return m, nil
}

// Metadata reads the metadata section. It fails if there is none.
func (f *File) Metadata() (*Metadata, error) {
	section, err := f.small(Meta, maxMetadata)
	if err != nil {
		return nil, err
	}
	return ParseMetadata(section)
}

// sorted returns a JSON value with the keys of its objects in order; an empty value is null.
func sorted(value json.RawMessage) (json.RawMessage, error) {
	if len(value) == 0 {
		return json.RawMessage("null"), nil
	}
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	var any any
	if err := decoder.Decode(&any); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("more than one JSON value")
	}
	return compact(any)
}

// compact returns JSON without spaces, and without the escapes for HTML, which no other writer of this format
// makes.
func compact(value any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
