package nsm_test

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// Inside of an enclave, nsm.Open returns the module; here, a function answers instead.
func ExampleModule() {
	module := &nsm.Module{Exchange: func([]byte) ([]byte, error) {
		return cbor.Marshal(map[string]any{"DescribePCR": map[string]any{"lock": true,
			"data": make([]byte, 48)}})
	}}
	register, err := module.DescribePCR(0)
	fmt.Println(register.Locked, len(register.Value), err)
	// Output: true 48 <nil>
}

func ExampleDocument_Compare() {
	document := &nsm.Document{PCRs: map[int][]byte{0: {1, 2}}} // a real one comes from nsm.Parse and Verify
	want := nsm.Expectation{PCRs: map[int][]byte{0: {1, 3}}, Nonce: bytes.Repeat([]byte{7}, 2)}
	for _, difference := range document.Compare(want) {
		fmt.Println(difference)
	}
	// Output:
	// PCR0: expected 0103, found 0102
	// nonce: expected 0707, found none
}

func ExampleAWSRoot() {
	fmt.Println(nsm.AWSRoot().Subject)
	// Output: CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US
}
