"""What the contract of the dialects is tested with: requests and answers in each, and judges of what comes out."""
