"""Has a model become better, or only better liked by its reward?"""
