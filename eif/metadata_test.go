package eif_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

func TestMetadataEncode(t *testing.T) {
	m := eif.Metadata{
		ImageName: "hello <world> & ümlaut", ImageVersion: "1",
		BuildMetadata: eif.BuildMetadata{BuildTime: "1970-01-01T00:00:00+00:00", BuildTool: "neb",
			BuildToolVersion: "1", OperatingSystem: "Linux", KernelVersion: "6.12.117"},
		DockerInfo: json.RawMessage(` {"b": 1, "a": {"d": 1.50, "c": "<x>"}} `),
	}
	const want = `{"ImageName":"hello <world> & ümlaut","ImageVersion":"1","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00+00:00","BuildTool":"neb","BuildToolVersion":"1","OperatingSystem":"Linux","KernelVersion":"6.12.117"},"DockerInfo":{"a":{"c":"<x>","d":1.50},"b":1},"CustomMetadata":null}`
	got, err := m.Encode()
	if err != nil || string(got) != want {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
	back, err := eif.ParseMetadata(got)
	if err != nil || back.ImageName != m.ImageName || back.BuildMetadata != m.BuildMetadata ||
		string(back.CustomMetadata) != "null" {
		t.Errorf("%+v (%v)", back, err)
	}
	for _, custom := range []string{`[]`, `"x"`, `1`, `{`, `{} {}`} {
		m.CustomMetadata = json.RawMessage(custom)
		if _, err := m.Encode(); err == nil {
			t.Errorf("custom metadata %s are taken", custom)
		}
	}
}

func TestParseMetadataRefuses(t *testing.T) {
	for _, field := range []string{"ImageName", "ImageVersion", "BuildMetadata", "BuildTime", "BuildTool",
		"BuildToolVersion", "OperatingSystem", "KernelVersion", "DockerInfo", "CustomMetadata"} {
		text := strings.Replace(metadata, `"`+field+`"`, `"`+strings.ToLower(field)+`"`, 1)
		if _, err := eif.ParseMetadata([]byte(text)); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
	for _, text := range []string{"", "x", "null", "[]", metadata + "x", strings.Replace(metadata, `"hello"`, "5", 1), strings.Replace(metadata, `"hello"`, "null", 1), strings.Replace(metadata, `{"BuildTime"`, `[{"BuildTime"`, 1)} {
		if _, err := eif.ParseMetadata([]byte(text)); err == nil {
			t.Errorf("%.60q is read", text)
		}
	}
	if _, err := eif.ParseMetadata([]byte(metadata)); err != nil {
		t.Error(err)
	}
}

// TestMeasurementsJSON compares with what nitro-cli build-enclave prints.
func TestMeasurementsJSON(t *testing.T) {
	m := eif.Measurements{PCR0: eif.PCR{0xa0}, PCR1: eif.PCR{0xa1}, PCR2: eif.PCR{0xa2}}
	zeros := strings.Repeat("0", 94)
	want := `{
  "Measurements": {
    "HashAlgorithm": "Sha512_48 { .. }",
    "PCR0": "a0` + zeros + `",
    "PCR1": "a1` + zeros + `",
    "PCR2": "a2` + zeros + `"
  }
}`
	if got, err := json.MarshalIndent(struct{ Measurements eif.Measurements }{m}, "", "  "); err != nil ||
		string(got) != want {
		t.Errorf("%s (%v)", got, err)
	}
	m.PCR8 = &eif.PCR{0xa8}
	want = strings.Replace(want, `a2`+zeros+`"`, `a2`+zeros+"\",\n    \"PCR8\": \"a8"+zeros+`"`, 1)
	if got, err := json.MarshalIndent(struct{ Measurements eif.Measurements }{m}, "", "  "); err != nil ||
		string(got) != want {
		t.Errorf("%s (%v)", got, err)
	}
}
