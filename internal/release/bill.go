package release

import (
	"bytes"
	"fmt"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// bill returns the bill of materials, CycloneDX 1.6: the blobs, what they contain (kernel with patches,
// Go's standard library, Go modules), and the toolchain that built them (scope excluded, because it is not
// shipped).
func (r Release) bill(l *lock.Lock, blobs []file, modules []module) ([]byte, error) {
	files, err := inputs(l, r.Host)
	if err != nil {
		return nil, err
	}
	kernelRef, goRef := packageURL(l.Kernel), "pkg:golang/std@"+l.Go.Version
	var components []cdx.Component
	contains := map[string][]string{} // by bom-ref

	for i, b := range Blobs() {
		ref := "blob:" + b.Path()
		components = append(components, cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeFile, Name: b.Path(), Version: r.Version,
			Scope:  cdx.ScopeRequired,
			Hashes: hashes(digestOf(blobs[i].data)["sha256"]), Licenses: licence(b.Licence),
		})
		switch b.Name {
		case "cmdline":
		case "init", "linuxkit":
			contains[ref] = append(contains[ref], goRef)
			for _, m := range modules {
				for _, in := range m.blobs {
					if in == b.Path() {
						contains[ref] = append(contains[ref], m.purl())
					}
				}
			}
		default:
			contains[ref] = append(contains[ref], kernelRef)
		}
	}

	components = append(components, cdx.Component{
		BOMRef: kernelRef, Type: cdx.ComponentTypeOS, Name: l.Kernel.Name, Version: l.Kernel.Version,
		Scope:      cdx.ScopeRequired,
		PackageURL: packageURL(l.Kernel), Hashes: hashes(l.Kernel.SHA256),
		Licenses: licence(terms["kernel"].licence),
		Pedigree: pedigree(), ExternalReferences: from(l.Kernel),
	}, cdx.Component{
		BOMRef: goRef, Type: cdx.ComponentTypeLibrary, Name: "std", Version: l.Go.Version,
		Scope:      cdx.ScopeRequired,
		PackageURL: goRef, Licenses: licence("BSD-3-Clause"),
	})
	for _, m := range modules {
		sum, err := m.dirHash()
		if err != nil {
			return nil, err
		}
		components = append(components, cdx.Component{
			BOMRef: m.purl(), Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version,
			Scope:      cdx.ScopeRequired,
			PackageURL: m.purl(), Licenses: licence(m.licence),
			Properties: &[]cdx.Property{{Name: "neb:go.sum", Value: "h1:" + m.sum[3:]},
				{Name: "neb:dirHash", Value: sum}},
		})
	}
	for _, f := range files {
		if f.Name == l.Kernel.Name {
			continue
		}
		components = append(components, cdx.Component{
			BOMRef: packageURL(f), Type: cdx.ComponentTypeApplication, Name: f.Name, Version: f.Version,
			Scope:      cdx.ScopeExcluded,
			PackageURL: packageURL(f), Hashes: hashes(f.SHA256),
			Licenses: toolLicence(f), ExternalReferences: from(f),
		})
	}

	bom := cdx.NewBOM()
	bom.JSONSchema = "http://cyclonedx.org/schema/bom-1.6.schema.json"
	bom.SpecVersion = cdx.SpecVersion1_6
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: "enclaves-blobs", Type: cdx.ComponentTypeFirmware, Name: "enclaves-blobs", Version: r.Version,
		ExternalReferences: &[]cdx.ExternalReference{{Type: cdx.ERTypeVCS, URL: home}},
	}}
	bom.Components = &components
	var dependencies []cdx.Dependency
	for _, b := range Blobs() {
		ref := "blob:" + b.Path()
		contains["enclaves-blobs"] = append(contains["enclaves-blobs"], ref)
	}
	for _, ref := range append([]string{"enclaves-blobs"}, contains["enclaves-blobs"]...) {
		if on := contains[ref]; on != nil {
			dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &on})
		}
	}
	bom.Dependencies = &dependencies

	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out,
		cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom,
		cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("bill of materials: %w", err)
	}
	return out.Bytes(), nil
}

// pedigree lists the patches that the kernel has on top of its source package.
func pedigree() *cdx.Pedigree {
	var patches []cdx.Patch
	for _, p := range kernel.Patches() {
		patches = append(patches, cdx.Patch{Type: cdx.PatchTypeUnofficial, Diff: &cdx.Diff{
			URL:  "kernel/patches/" + p.Name,
			Text: &cdx.AttachedText{ContentType: "text/x-diff", Content: p.Text},
		}})
	}
	return &cdx.Pedigree{Patches: &patches,
		Notes: "Patches are under GPL-2.0, as the kernel. The configuration is beside each kernel."}
}

func licence(expression string) *cdx.Licenses {
	return &cdx.Licenses{{Expression: expression}}
}

// toolLicence refers to the licence of a tool. A Debian package contains its licences, for which no
// identifier exists.
func toolLicence(f lock.File) *cdx.Licenses {
	if f.Archive == lock.GoProxy {
		return licence("BSD-3-Clause")
	}
	return &cdx.Licenses{{License: &cdx.License{Name: "see usr/share/doc/" + f.Name +
		"/copyright in the package"}}}
}

func hashes(sha256 string) *[]cdx.Hash {
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sha256}}
}

func from(f lock.File) *[]cdx.ExternalReference {
	url := SnapshotURL(f)
	if url == "" {
		return nil
	}
	return &[]cdx.ExternalReference{{Type: cdx.ERTypeDistribution, URL: url}}
}
