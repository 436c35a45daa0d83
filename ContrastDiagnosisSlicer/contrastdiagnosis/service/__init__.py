"""The engine as a server on this machine or another: requests, answers, who may ask."""
